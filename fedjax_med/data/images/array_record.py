"""Prepared images as ArrayRecord: written once, then kept in memory or read one by one from disk.

tensorflow-datasets writes and reads the records without TensorFlow.
"""

import contextlib
import errno
import functools
import hashlib
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from fedjax_med.data.dataset import Split, Unreadable
from fedjax_med.data.images import checksums, holding
from fedjax_med.data.images.lazy import BLOCK, DiskImages
from fedjax_med.data.memory import memory_bytes
from fedjax_med.errors import UserError, check_name
from fedjax_med.files import make_folder, sync, sync_tree
from fedjax_med.files.unfinished import unfinished

PLACES = ("auto", "memory", "disk")  # where the images are kept during use
_INFO = "dataset_info.json"  # the file that tfds writes last
UNFINISHED = "unfinished_"  # prefix of folders that are being written

Row = dict[str, Any]  # one image: the features of `Builder`


class Prepared(NamedTuple):
    """A prepared data set."""

    splits: list[Split]
    unreadable: tuple[Unreadable, ...]
    levels: tuple[tuple[str, int], ...]  # scales of grey levels, and how many images have each


class _Info(tfds.core.DatasetInfo):  # type: ignore[misc]
    def initialize_from_bucket(self) -> None:
        """Do not look for this data set on the net, for which tfds leaves a temporary folder."""


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
    """Writes images to ArrayRecord; files that cannot be read become records as well."""

    VERSION = tfds.core.Version("1.3.0")
    # None: nothing is downloaded, so there are no checksums beside this file; to look for them tfds
    # would need importlib_resources, which it does not declare.
    code_path = None

    def __init__(
        self, rows: Mapping[str, Callable[[], Iterator[Row]]], image_size: int, data_dir: Path
    ) -> None:
        """Take for each split a function that yields its images, called when they are written."""
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
            "levels": tfds.features.Text(),  # the black and white of more than 8 bits, or ""
        }
        return _Info(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(rows) for split, rows in self._rows.items()}

    def _generate_examples(self, rows: Callable[[], Iterator[Row]]) -> Iterator[tuple[str, Row]]:
        for row in rows():
            yield f"{row['client']}/{row['name']}", row


def blocks(count: int) -> Iterator[range]:
    """Divide 0 to ``count - 1`` into ranges of `BLOCK`."""
    return (range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK))


def digest(parts: Iterable[str]) -> str:
    """Hash the texts `parts` to a short name."""
    text = "\n".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def on_disk(images: str, count: int, image_size: int) -> bool:
    """Tell whether `count` images stay on disk; ``auto``: if they exceed a quarter of the memory.

    Raises:
        UserError: `images` is neither ``auto``, ``memory`` nor ``disk``.
    """
    check_name(images, PLACES, "the values of --config.image_storage")
    if images == "auto":
        return 3 * image_size**2 * count > memory_bytes() / 4
    return images == "disk"


def check_space(cache_dir: Path, count: int, image_size: int) -> None:
    """Refuse to prepare more images than fit on the disk.

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
    """Build the error for a cache that cannot be written."""
    return UserError(
        f"--cache_dir={cache_dir} cannot be written: {error.strerror or error}. "
        "Give another folder."
    )


def place(kind: type[Builder], folder: Path) -> Path:
    """Return the path in `folder` where a builder of that `kind` keeps its records, if any."""
    return Path(folder, kind.name, str(kind.VERSION))


def write(make: Callable[[Path], Builder], there: Path) -> None:
    """Write the records and their checksums; they appear at `there` once all are on the disk.

    Args:
        make: creates the builder for a folder.
        there: the `place` in a folder that the caller holds.

    Raises:
        OSError: The records cannot be written.
        UserError: The checksums cannot be written.
    """
    tfds.disable_progress_bar()
    folder = there.parent.parent
    mine = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    remove = functools.partial(shutil.rmtree, mine, ignore_errors=True)
    try:
        with holding.held(mine), unfinished(remove):
            builder = make(mine)
            with contextlib.redirect_stdout(io.StringIO()):
                builder.download_and_prepare()
            written = Path(builder.data_path)
            checksums.write(written)
            sync_tree(written)
            make_folder(there.parent)
            written.rename(there)
            sync(there.parent)
    except (OSError, RuntimeError) as error:  # RuntimeError: the record writer's, disk full
        if isinstance(error, RecursionError | NotImplementedError):
            raise
        # A folder takes its name once all is written, so one at `there` is complete: another run
        # was faster.
        if not there.exists():
            raise OSError(" ".join(str(error).split())) from error
    finally:
        remove()


def read(
    make: Callable[[Path], Builder], there: Path, splits: tuple[str, ...], disk: bool
) -> Prepared:
    """Read the splits that `write` has written, each sorted by (client, name).

    Args:
        make: creates the builder for a folder.
        there: the `place` in a folder that the caller holds.
        splits: their names; a split without records has no examples.
        disk: whether the images stay on disk.

    Returns:
        The splits, the files that are not usable images, and the scales of grey levels.

    Raises:
        DamagedError: Files differ from those written.
        UserError: The records cannot be read.
    """
    try:
        if not checksums.check(there):  # every set of this VERSION has them
            raise checksums.DamagedError(there, f"{checksums.NAME} is missing")
        if not (there / _INFO).exists():  # tfds would report a set without images
            raise FileNotFoundError(errno.ENOENT, "it has no file", _INFO)
        builder = make(there.parent.parent)
        parts = [_read(builder, split, disk) for split in splits]
    except (MemoryError, UserError):
        raise
    except Exception as error:
        if explained := checksums.explain(there, error):
            raise explained from error
        raise
    splits_, unreadable, levels = zip(*parts, strict=True)
    counts = sum(levels, Counter[str]())
    return Prepared(list(splits_), sum(unreadable, ()), tuple(sorted(counts.items())))


def _read(
    builder: Builder, split: str, disk: bool
) -> tuple[Split, tuple[Unreadable, ...], Counter[str]]:
    """Read one split and sort it, since tfds shuffles the records."""
    reader = builder.as_data_source(split) if split in builder.info.splits else ()
    rows: list[Row] = []
    for block in blocks(len(reader)):
        for row in reader.__getitems__(list(block)):  # type: ignore[union-attr]
            # Keep only the greatest value of each image, so that its pixels are freed at once.
            rows.append(row | {"image": row["image"].max()})
    for row in rows:
        for field in ("name", "sha256", "reason", "levels"):
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
        Path(builder.data_path),
    )
    if disk and len(reader):  # from here on; so far the caller has held it
        holding.hold_for(reader, builder.folder)
    columns = Split(
        image=image if disk else np.asarray(image),
        label=_column(rows, "label", np.int32),
        name=_column(rows, "name", np.str_),
        sha256=_column(rows, "sha256", np.str_),
        image_hash=_column(rows, "image_hash", np.uint8).reshape(-1, 32),
        client=_column(rows, "client", np.int32),
    )
    return columns, unreadable, Counter(row["levels"] for row in rows if row["levels"])


def _column(rows: list[Row], field: str, dtype: Any) -> Any:
    return np.array([row[field] for row in rows], dtype)
