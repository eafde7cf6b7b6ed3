"""The image files in a folder, by their names, and what else is there."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedjax_med.data.spelling import of_file
from fedjax_med.errors import UserError, printable

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


def folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder, without hidden ones.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error) from error


def images_in(folder: Path) -> list[Path]:
    """List the images in a folder, without hidden ones.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return [
            path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES
            and not path.name.startswith(".")
            and not path.is_dir()
        ]
    except OSError as error:
        raise _unreadable(folder, error) from error


def images_of(class_folder: Path, nested: bool) -> list[Path]:
    """List the images of a class: in its folder and, if they are `nested`, in folders below it.

    Raises:
        UserError: A folder cannot be read.
    """
    found = images_in(class_folder)
    if nested:
        for inner in _below(class_folder):
            found += images_in(inner)
    return found


def _below(folder: Path) -> list[Path]:
    """List all folders below a folder, without hidden ones and links, which may lead anywhere."""

    def refuse(error: OSError) -> None:
        raise _unreadable(Path(error.filename), error) from error

    found = []
    for here, inner, _ in os.walk(folder, onerror=refuse):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [one for name in inner if not (one := Path(here, name)).is_symlink()]
    return found


def others(class_folder: Path, nested: bool) -> Counter[str]:
    """Count what is no image of a class: by suffix, or "folder"; skip hidden files."""
    found: Counter[str] = Counter()
    for here in [class_folder, *(_below(class_folder) if nested else [])]:
        images = set(images_in(here))
        for path in here.iterdir():
            if path in images or path.name.startswith("."):
                continue
            if not path.is_dir():
                found[path.suffix.lower() or "no suffix"] += 1
            elif not nested or path.is_symlink():
                count = count_below(path)
                found.update({"images in folders below a class": count} if count else {"folder": 1})
    return found


def count_below(folder: Path) -> int:
    """Count the images in a folder that is no link, which may lead anywhere."""
    if folder.is_symlink():
        return 0
    return sum(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def names(images: Sequence[tuple[str, int, Path, Path]]) -> list[str]:
    """Name images ``<class folder>/<file>``, with the folders between where it is not unique.

    Args:
        images: the split, the client, the class folder and the file of each.

    Raises:
        UserError: Two images have one name even so.
    """
    short = [(*where, f"{of_file(of.name)}/{of_file(path.name)}") for *where, of, path in images]
    count = Counter(short)
    named = [
        one if count[one] == 1 else (*one[:2], f"{of_file(of.name)}/{_flat(of, path)}")
        for one, (*_, of, path) in zip(short, images, strict=True)
    ]
    for (*_, name), number in Counter(named).items():
        if number > 1:
            raise UserError(f"{number} images would be called {printable(str(name))}: rename one.")
    return [str(name) for *_, name in named]


def _flat(of: Path, path: Path) -> str:
    return "_".join(map(of_file, path.relative_to(of).parts))


def _unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} cannot be read: {error.strerror}.")
