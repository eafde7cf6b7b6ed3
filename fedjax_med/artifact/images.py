"""Image files from anywhere, prepared as a bundle's model was trained."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med.data.images import agreement
from fedjax_med.data.images.folders import File
from fedjax_med.data.images.levels import Scale
from fedjax_med.data.images.listing import SUFFIXES
from fedjax_med.data.images.load import Prepared, prepare
from fedjax_med.data.spelling import of_file
from fedjax_med.errors import UserError

_BLOCK = 2048  # images in memory at a time


class Listing(NamedTuple):
    """The image files of a folder, and how many other files are in it."""

    files: list[File]
    others: int


def listing(path: Path) -> Listing:
    """List the image files in a folder and in all folders below, or the one file at `path`.

    Hidden files and folders are left out, and links to folders are not followed.

    Raises:
        UserError: There is no such file, no image in the folder, or a folder cannot be read.
    """
    if path.is_dir():
        seen = visible(path)
        images = [one for one in seen if one.suffix.lower() in SUFFIXES]
        names = {one: of_file(one.relative_to(path).as_posix()) for one in images}
        if not images:
            raise UserError(
                f"--images={path}: no image is there: expected {', '.join(sorted(SUFFIXES))}, in "
                "the folder or in folders below."
            )
    elif path.exists():
        seen = images = [path]
        names = {path: of_file(path.name)}
    else:
        raise UserError(f"--images={path}: there is no such file or folder.")
    files = [File(one, "images", -1, 0, names[one]) for one in images]
    files.sort(key=lambda file: file.name)
    return Listing(files, len(seen) - len(images))


def visible(folder: Path) -> list[Path]:
    """List all files in `folder` and below that are not hidden; links to folders are not followed.

    Raises:
        UserError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error

    found = []
    for at, below, names in os.walk(folder, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(at) / name for name in names if not name.startswith(".")]
    return found


def scale(files: Sequence[File], info: dict[str, Any]) -> Scale:
    """Find the black and white of levels of more than 8 bits, as training would of these files.

    A file whose levels need a range, which training was not given, is unreadable.

    Args:
        files: all that are to be predicted.
        info: the content of ``bundle.json``.
    """
    given = info["preprocessing"]["range"]
    return agreement.tolerant(files, (given[0], given[1]) if given else None)[0]


def prepared(files: Sequence[File], info: dict[str, Any]) -> Iterator[list[tuple[File, Prepared]]]:
    """Read the files and make each an image of the model's size, block by block.

    Args:
        files: of images, or what is taken for some.
        info: the content of ``bundle.json``.
    """
    seen, of_all = info["preprocessing"], scale(files, info)

    def made(file: File) -> tuple[File, Prepared]:
        return file, prepare(file.path, seen["image_size"], seen["crop"], of_all)

    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        for start in range(0, len(files), _BLOCK):
            yield list(pool.map(made, files[start : start + _BLOCK]))
