"""Image files -> ArrayRecord, prepared once and cached -> the splits of a data set."""

import functools
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.images import (
    agreement,
    array_record,
    class_names,
    decode,
    holding,
    kept,
    manifest,
)
from fedjax_med.data.images.folders import File, Source
from fedjax_med.data.images.levels import FULL, Scale
from fedjax_med.errors import UserError, check_name, expand, printable
from fedjax_med.files import read_regular

_FINGERPRINT = re.compile("[0-9a-f]{16}")  # the form of `array_record.digest`


def load(
    name: str,
    source: Source,
    cache_dir: str,
    image_size: int,
    where: str = "memory",
    crop: str = "centre",
    range_: Sequence[float] = (),
) -> Dataset:
    """Read the images of `source`, preparing them first if they are new or have changed.

    Outdated images that were prepared from this folder are removed afterwards, unless another run
    reads them.

    Args:
        name: the name of the data set.
        source: the images and their labels.
        cache_dir: where prepared images are kept, by source folder and `image_size`.
        image_size: the side of the square that every image is scaled to, in pixels.
        where: ``memory``, ``disk`` or ``auto``: where the images are kept during use.
        crop: ``centre``, ``pad`` or ``stretch``: how images become square.
        range_: black and white of the grey levels whose files do not tell them, or nothing.

    Returns:
        The data set, each split sorted by (client, name); files that are not usable images are in
        `Dataset.unreadable`.

    Raises:
        UserError: `cache_dir` cannot be written, is full or was damaged, an argument is out of its
            range, grey levels need `range_`, or the images differ from their ``manifest.json``.
    """
    if image_size < 1:
        raise UserError(f"image_size: expected at least 1 pixel, got {image_size}.")
    check_name(crop, decode.CROPS, "the values of --config.crop")
    given = agreement.check_range(range_)
    disk = array_record.on_disk(where, len(source.files), image_size)
    cache = expand(cache_dir).absolute()
    # Each way to read the images has a place of its own; the usual one that of earlier versions.
    ways = [crop] * (crop != "centre") + [str(given)] * (given is not None)
    ways += [source.table] * bool(source.table)
    of = array_record.digest([str(source.root), *ways])
    home = cache / "image_folder" / f"{of}_{image_size}px"
    folder = home / _fingerprint(source)
    there = array_record.place(ClassFolders, folder)
    make = functools.partial(ClassFolders, source.files, image_size, crop)

    def prepare() -> None:
        _announce(source, home, cache, image_size)
        scale = agreement.agree(source.files, given)
        array_record.write(functools.partial(make, scale=scale), there)
        _remove_others(folder)

    read = functools.partial(array_record.read, make, there, ("train", "test"), disk)
    (train, test), unreadable, levels = kept.read_or_prepare(there, cache, prepare, read)
    dataset = Dataset(
        name,
        source.class_names,
        train,
        test,
        unreadable,
        source.ignored,
        levels,
        source.clients,
    )
    if not source.table:  # a manifest lists folders
        manifest.check(source.root, dataset)
    return dataset


def check_options(*, rename: str = "", range: Sequence[float] = ()) -> None:
    """Refuse options of class-folder data sets that no images could fit.

    Raises:
        UserError: `rename` has another form, or `range` is no black and white.
    """
    class_names.entries(rename)
    agreement.check_range(range)


class ClassFolders(array_record.Builder):
    """Writes the images of a `Source`."""

    def __init__(
        self,
        files: Iterable[File],
        image_size: int,
        crop: str,
        data_dir: Path,
        scale: Scale = FULL,
    ) -> None:
        self._crop, self._scale = crop, scale
        splits: dict[str, list[File]] = {}
        for file in files:
            splits.setdefault(file.split, []).append(file)
        rows = {split: functools.partial(self._decoded, of) for split, of in splits.items()}
        super().__init__(rows, image_size, data_dir)

    def _decoded(self, files: list[File]) -> Iterator[array_record.Row]:
        # Decoding releases the interpreter's lock; blocks bound the images waiting in memory.
        with ThreadPoolExecutor() as pool:
            for block in array_record.blocks(len(files)):
                yield from pool.map(self._record, [files[i] for i in block])

    def _record(self, file: File) -> array_record.Row:
        made = prepare(file.path, self._image_size, self._crop, self._scale)
        return {
            "image": made.image,
            "label": file.label,
            "name": file.name,
            "sha256": made.sha256,
            "image_hash": made.image_hash,
            "client": file.client,
            "reason": made.reason,
            "levels": made.levels,
        }


class Prepared(NamedTuple):
    """A file, prepared as an image to train on or to predict."""

    image: npt.NDArray[np.uint8]  # [S, S, 3], upright RGB; black if there is a reason
    image_hash: npt.NDArray[np.uint8]  # [32], as of `decode.perceptual_hash`
    sha256: str  # hex digest of the file's bytes
    reason: str  # why it cannot be used, or ""
    levels: str  # the black and white of an image of more than 8 bits, or ""


def prepare(path: Path, image_size: int, crop: str, scale: Scale = FULL) -> Prepared:
    """Read an image file of any format and colour mode, and make it a square of `image_size`."""
    image = np.zeros((image_size, image_size, 3), np.uint8)
    image_hash, reason, levels, data = np.zeros(32, np.uint8), "", "", b""
    try:
        data = read_regular(path, decode.LIMIT)
        decoded, levels = decode.read(data, scale)
        image = decode.resize(decoded, image_size, crop)
        image_hash = decode.perceptual_hash(decoded)
    except decode.ImageError as error:
        reason = str(error)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    return Prepared(image, image_hash, hashlib.sha256(data).hexdigest(), reason, levels)


def _announce(source: Source, home: Path, cache: Path, image_size: int) -> None:
    """Print that `source` is being prepared; refuse if it does not fit on the disk."""
    what = "The images, or what the table says of them," if source.table else "The images"
    changed = any(home.glob("*/*/*/dataset_info.json"))
    print(
        f"{f'{what} have changed: preparing' if changed else 'Preparing'} "
        f"{len(source.files):,} images of {printable(str(source.root), 200)} "
        f"at {image_size} x {image_size} pixels; kept in {cache}.",
        file=sys.stderr,
    )
    array_record.check_space(cache, len(source.files), image_size)


def _remove_others(folder: Path) -> None:
    """Remove images prepared earlier from this source, unless another run uses them."""
    for other in sorted(folder.parent.iterdir()):
        if not _FINGERPRINT.fullmatch(other.name) or other == folder or not other.is_dir():
            continue  # keep the new folder and any that this program did not make
        if not holding.remove_unused(other):
            print(
                f"What was prepared before stays in {other}, since another run may read it: "
                "remove that folder when none does.",
                file=sys.stderr,
            )


def _fingerprint(source: Source) -> str:
    """Compute a digest that changes when a file is added, removed, renamed, relabelled, written."""
    lines = []
    for file in source.files:
        try:
            stat = file.path.stat()
            # The change time detects swapped files that kept size and mtime.
            marks = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        except OSError:  # a dangling link: an unreadable file, reported as such
            marks = (-1, -1, -1)
        # Folders say where an image belongs; with a table the same path may be anywhere.
        place = f"{file.split} {file.client} {file.name} " if source.table else ""
        lines.append(f"{place}{file.path.relative_to(source.root)} {file.label} {marks}")
    return array_record.digest([str(ClassFolders.VERSION), *source.class_names, *lines])
