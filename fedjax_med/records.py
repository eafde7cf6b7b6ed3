"""Image files -> ArrayRecord, prepared once and cached -> the splits of a data set.

tensorflow-datasets writes and reads the records without TensorFlow.
"""

import contextlib
import hashlib
import io
import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fedjax_med import images, manifest
from fedjax_med.class_folders import File, Source
from fedjax_med.errors import UserError
from fedjax_med.types import Dataset, Split, Unreadable

_BLOCK = 256  # images decoded, or records read, at a time


def load(name: str, source: Source, cache_dir: str, image_size: int) -> Dataset:
    """Read the images of `source`, preparing them first if they are new or have changed.

    What was prepared from this folder before, and is out of date, is removed afterwards.

    Args:
        name: What the data set is called.
        source: The images and their labels.
        cache_dir: Where prepared images are kept, by source folder and `image_size`.
        image_size: The side of the square that every image is cut and scaled to, in pixels.

    Returns:
        The data set, each split sorted by (client, name); files that are no usable images are in
        `Dataset.unreadable`.

    Raises:
        UserError: `cache_dir` cannot be written, is full or was damaged, `image_size` is no size,
            or the images are not those of their ``manifest.json``.
    """
    if image_size < 1:
        raise UserError(f"image_size: expected at least 1 pixel, got {image_size}.")
    builder = _prepare(source, Path(cache_dir).expanduser().absolute(), image_size)
    try:
        train, broken_train = _read(builder, source, "train")
        test, broken_test = _read(builder, source, "test")
    except Exception as error:
        shutil.rmtree(builder.data_path, ignore_errors=True)
        raise UserError(
            f"the prepared images in {builder.data_path} could not be read and were removed: "
            f"run again to prepare them anew ({' '.join(str(error).split())})."
        ) from error
    unreadable = broken_train + broken_test
    dataset = Dataset(name, source.class_names, train, test, unreadable, source.ignored)
    manifest.check(source.root, dataset)
    return dataset


class ClassFolders(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """Writes the images of a `Source` to ArrayRecord; unreadable files become records as well."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so no checksums lie beside this file; to look for them tfds would need
    # importlib_resources, which it does not declare.
    code_path = None

    def __init__(self, files: Iterable[File], image_size: int, data_dir: Path) -> None:
        self._files = tuple(files)
        self._image_size = image_size
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> Any:
        square = (self._image_size, self._image_size, 3)
        features = {
            "image": tfds.features.Tensor(shape=square, dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.Scalar(np.int32),
            "name": tfds.features.Text(),
            "sha256": tfds.features.Text(),
            "image_hash": tfds.features.Tensor(shape=(32,), dtype=np.uint8, encoding="bytes"),
            "client": tfds.features.Scalar(np.int32),
            "reason": tfds.features.Text(),  # why the file is unreadable, or ""
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        splits: dict[str, list[File]] = {}
        for file in self._files:
            splits.setdefault(file.split, []).append(file)
        return {split: self._generate_examples(files) for split, files in splits.items()}

    def _generate_examples(self, files: list[File]) -> Iterator[tuple[str, dict[str, Any]]]:
        # Decoding runs outside the interpreter's lock; the blocks bound what waits in memory.
        with ThreadPoolExecutor() as pool:
            for block in _blocks(len(files)):
                for record in pool.map(self._record, [files[i] for i in block]):
                    yield f"{record['client']}/{record['name']}", record

    def _record(self, file: File) -> dict[str, Any]:
        image = np.zeros((self._image_size, self._image_size, 3), np.uint8)
        image_hash, reason, data = np.zeros(32, np.uint8), "", b""
        try:
            data = file.path.read_bytes()
            decoded = images.decode(data)
            image = images.resize(decoded, self._image_size)
            image_hash = images.perceptual_hash(decoded)
        except images.ImageError as error:
            reason = str(error)
        except OSError as error:
            reason = error.strerror or type(error).__name__
        return {
            "image": image,
            "label": file.label,
            "name": file.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "image_hash": image_hash,
            "client": file.client,
            "reason": reason,
        }


def _blocks(count: int) -> Iterator[range]:
    return (range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


def _prepare(source: Source, cache_dir: Path, image_size: int) -> ClassFolders:
    """The builder of `source`, prepared: now, or by an earlier run if nothing has changed since."""
    home = cache_dir / "image_folder" / f"{_digest([str(source.root)])}_{image_size}px"
    folder = home / _fingerprint(source)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        builder = ClassFolders(source.files, image_size, folder)
        if builder.data_path.exists():
            return builder
        changed = any(home.glob("*/*/*/dataset_info.json"))
        print(
            f"{'The images have changed: preparing' if changed else 'Preparing'} "
            f"{len(source.files):,} images of {source.root} at {image_size} x {image_size} pixels; "
            f"kept in {cache_dir}.",
            file=sys.stderr,
        )
        _check_space(cache_dir, len(source.files), image_size)
        _write(builder)
    except OSError as error:
        raise UserError(
            f"--cache_dir={cache_dir} cannot be written: {error.strerror or error}. "
            "Give another folder."
        ) from error
    for other in itertools.chain(home.iterdir(), builder.data_path.parent.iterdir()):
        if other not in (folder, builder.data_path):
            shutil.rmtree(other, ignore_errors=True)
    return ClassFolders(source.files, image_size, folder)  # knows what is there, whoever wrote it


def _digest(parts: Iterable[str]) -> str:
    text = "\n".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def _fingerprint(source: Source) -> str:
    """Changes when a file is added, removed, renamed, resized or written."""
    lines = []
    for file in source.files:
        try:
            stat = file.path.stat()
            # The change time tells files apart that were swapped, and so kept size and mtime.
            marks = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        except OSError:  # a dangling link: an unreadable file, reported as such
            marks = (-1, -1, -1)
        lines.append(f"{file.path.relative_to(source.root)} {marks}")
    return _digest([str(ClassFolders.VERSION), *source.class_names, *lines])


def _check_space(cache_dir: Path, count: int, image_size: int) -> None:
    needed = 2 * count * (3 * image_size**2 + 500)  # the records are written, then shuffled
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise UserError(
            f"--cache_dir={cache_dir} has {free / 1e6:,.0f} MB free, and preparing takes "
            f"{needed / 1e6:,.0f} MB. Free some space or give another folder."
        )


def _write(builder: ClassFolders) -> None:
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:
        # tfds renames the folder when all is written, so what is there is complete: another run
        # was faster. The writers below raise anything on a full disk, RuntimeError included.
        if not builder.data_path.exists():
            raise OSError(" ".join(str(error).split())) from error


def _read(
    builder: ClassFolders, source: Source, split: str
) -> tuple[Split, tuple[Unreadable, ...]]:
    """One split, in the order of (client, name): tfds shuffles the records."""
    records: list[dict[str, Any]] = []
    if any(file.split == split for file in source.files):
        reader = builder.as_data_source(split)
        for block in _blocks(len(reader)):
            records += reader.__getitems__(list(block))
    for record in records:
        for field in ("name", "sha256", "reason"):
            record[field] = record[field].decode()
    records.sort(key=lambda record: (record["client"], record["name"]))
    unreadable = tuple(
        Unreadable(split, record["name"], record["reason"])
        for record in records
        if record["reason"]
    )
    records = [record for record in records if not record["reason"]]
    side = builder.info.features["image"].shape[0]
    return Split(
        image=_stack(records, "image", np.uint8, (side, side, 3)),
        label=_stack(records, "label", np.int32, ()),
        name=np.array([record["name"] for record in records], np.str_),
        sha256=np.array([record["sha256"] for record in records], np.str_),
        image_hash=_stack(records, "image_hash", np.uint8, (32,)),
        client=_stack(records, "client", np.int32, ()),
    ), unreadable


def _stack(records: list[dict[str, Any]], field: str, dtype: Any, shape: tuple[int, ...]) -> Any:
    stacked = np.empty((len(records), *shape), dtype)
    for index, record in enumerate(records):
        stacked[index] = record.pop(field)  # given back at once, so that memory holds one copy
    return stacked
