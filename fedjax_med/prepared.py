"""Prepared images as ArrayRecord: written once, then kept in memory or read one by one from disk.

tensorflow-datasets writes and reads the records without TensorFlow.
"""

import contextlib
import hashlib
import io
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fedjax_med.disk_images import BLOCK, DiskImages
from fedjax_med.errors import UserError, check_name
from fedjax_med.types import Split, Unreadable

try:
    import fcntl
except ImportError:  # not on Windows, which removes no file that is open
    fcntl = None  # type: ignore[assignment]

PLACES = ("auto", "memory", "disk")  # where a data set's images are while it is used

Row = dict[str, Any]  # one image: the features of `Builder`


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
    """Writes images to ArrayRecord; files that cannot be read become records as well."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so no checksums lie beside this file; to look for them tfds would need
    # importlib_resources, which it does not declare.
    code_path = None

    def __init__(
        self, rows: Mapping[str, Callable[[], Iterator[Row]]], image_size: int, data_dir: Path
    ) -> None:
        """For each split the images, which are asked for when they are written."""
        self.folder = data_dir
        self._rows = rows
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
        return {split: self._generate_examples(rows) for split, rows in self._rows.items()}

    def _generate_examples(self, rows: Callable[[], Iterator[Row]]) -> Iterator[tuple[str, Row]]:
        for row in rows():
            yield f"{row['client']}/{row['name']}", row


def blocks(count: int) -> Iterator[range]:
    """0 to ``count - 1``, `BLOCK` at a time."""
    return (range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def digest(parts: Iterable[str]) -> str:
    """A short name for what `parts` say."""
    text = "\n".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def memory_bytes() -> float:
    """What this machine has, or this container may use; infinite where the system does not say."""
    try:
        known = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    except (AttributeError, OSError, ValueError):
        known = [float("inf")]
    with contextlib.suppress(OSError, ValueError):
        known.append(float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(known)


def on_disk(images: str, count: int, image_size: int) -> bool:
    """Whether `count` images stay on disk; ``auto`` if they would take a quarter of the memory.

    Raises:
        UserError: `images` is neither ``auto``, ``memory`` nor ``disk``.
    """
    check_name(images, PLACES, "the values of --config.images")
    if images == "auto":
        return 3 * image_size**2 * count > memory_bytes() / 4
    return images == "disk"


def check_space(cache_dir: Path, count: int, image_size: int) -> None:
    """Refuse to begin what will not fit.

    Raises:
        UserError: There is too little space.
    """
    needed = 2 * count * (3 * image_size**2 + 500)  # the records are written, then shuffled
    free = shutil.disk_usage(cache_dir).free
    if free < needed:
        raise UserError(
            f"--cache_dir={cache_dir} has {free / 1e6:,.0f} MB free, and preparing takes "
            f"{needed / 1e6:,.0f} MB. Free some space or give another folder."
        )


def cannot_write(cache_dir: Path, error: OSError) -> UserError:
    """What is told of a cache that cannot be written."""
    return UserError(
        f"--cache_dir={cache_dir} cannot be written: {error.strerror or error}. "
        "Give another folder."
    )


def write(builder: Builder) -> None:
    """Write the records; they appear when all is written.

    Raises:
        OSError: They cannot be written.
    """
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except Exception as error:
        # tfds renames the folder when all is written, so what is there is complete: another run
        # was faster. The writers below raise anything on a full disk, RuntimeError included.
        if not builder.data_path.exists():
            raise OSError(" ".join(str(error).split())) from error


def _mark_used(folder: Path, reader: object) -> None:
    """Keep other runs from removing `folder` as long as `reader` lives."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            descriptor = os.open(folder, os.O_RDONLY)
            weakref.finalize(reader, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def remove_unused(folder: Path) -> bool:
    """Remove `folder` unless a run reads from it, or it cannot be known; whether it is gone."""
    if fcntl is not None:
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(descriptor)
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def read(
    builder: Builder, splits: tuple[str, ...], disk: bool
) -> tuple[list[Split], tuple[Unreadable, ...]]:
    """The splits that `builder` has written, each in the order of (client, name).

    Args:
        builder: what was written.
        splits: their names; one without records has no examples.
        disk: whether the images stay there.

    Returns:
        The splits, and the files among them that are no usable images.

    Raises:
        UserError: The records cannot be read; damaged ones were removed.
    """
    try:
        parts = [_read(builder, split, disk) for split in splits]
    except MemoryError:
        raise
    except OSError as error:  # of the file system, and may pass; another run may read them
        raise UserError(
            f"the prepared images in {builder.data_path} could not be read: try again, and if it "
            f"stays so remove that folder ({' '.join(str(error).split())})."
        ) from error
    except Exception as error:
        shutil.rmtree(builder.data_path, ignore_errors=True)
        raise UserError(
            f"the prepared images in {builder.data_path} could not be read and were removed: "
            f"run again to prepare them anew ({' '.join(str(error).split())})."
        ) from error
    return [split for split, _ in parts], tuple(file for _, broken in parts for file in broken)


def _read(builder: Builder, split: str, disk: bool) -> tuple[Split, tuple[Unreadable, ...]]:
    """One split; tfds shuffles the records."""
    reader = builder.as_data_source(split) if split in builder.info.splits else ()
    if len(reader):
        _mark_used(builder.folder, reader)
    rows: list[Row] = []
    for block in blocks(len(reader)):
        for row in reader.__getitems__(list(block)):  # type: ignore[union-attr]
            # The pixels are given back at once: nothing but these is held for all images.
            rows.append(row | {"image": row["image"].max()})
    for row in rows:
        for field in ("name", "sha256", "reason"):
            row[field] = row[field].decode()
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["client"], rows[i]["name"]))
    unreadable = tuple(
        Unreadable(split, rows[i]["name"], rows[i]["reason"]) for i in order if rows[i]["reason"]
    )
    order = [i for i in order if not rows[i]["reason"]]
    rows = [rows[i] for i in order]
    side = builder.info.features["image"].shape[0]
    image = DiskImages(
        reader,  # type: ignore[arg-type]
        np.array(order, np.int64),
        _column(rows, "image", np.uint8),
        (side, side, 3),
        str(builder.data_path),
    )
    return Split(
        image=image if disk else np.asarray(image),
        label=_column(rows, "label", np.int32),
        name=_column(rows, "name", np.str_),
        sha256=_column(rows, "sha256", np.str_),
        image_hash=_column(rows, "image_hash", np.uint8).reshape(-1, 32),
        client=_column(rows, "client", np.int32),
    ), unreadable


def _column(rows: list[Row], field: str, dtype: Any) -> Any:
    return np.array([row[field] for row in rows], dtype)
