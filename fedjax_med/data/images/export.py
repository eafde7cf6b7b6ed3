"""Writes a partition of a data set as one folder of images per client."""

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.images import decode, folders, holding, manifest
from fedjax_med.errors import UserError, expand, printable
from fedjax_med.files import read_regular, sync, sync_tree
from fedjax_med.files.unfinished import unfinished

_MANY_CLIENTS = 50  # above this the table shows only least, median and most


def check_folders(data_dir: str, out: str) -> Path:
    """Check that `out` is a new folder outside of `data_dir`, and return it.

    Raises:
        UserError: A folder is missing, `out` lies in `data_dir`, or it is not empty.
    """
    if not data_dir:
        raise UserError(
            "partition copies image files: give their folder with --data_dir=FOLDER (a drawn data "
            "set such as 'lesions' has no files)."
        )
    if not out:
        raise UserError("partition needs a folder to write: give --out=FOLDER.")
    folder = expand(out).resolve()
    if folder.is_relative_to(expand(data_dir).resolve()):
        raise UserError(f"--out={out} lies in --data_dir={data_dir}: give a folder outside of it.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"--out={out} exists and is not an empty folder: give another or remove it."
        )
    return folder


def write(out: Path, listing: dict[str, Any], source: folders.Source) -> None:
    """Write everything beside `out`, then rename it: `out` is complete or absent."""
    beside = out.with_name(f".{out.name}.partial")
    holding.remove_unused(beside)  # left by a killed run; a live run holds its own
    try:
        with holding.held(beside):
            mine = Path(tempfile.mkdtemp(dir=beside))
            try:
                with unfinished(functools.partial(_remove, mine)):
                    _write_whole(mine / out.name, listing, source)
                    sync_tree(mine / out.name)
                    if out.exists():  # it is empty; not every system renames onto a folder
                        out.rmdir()
                    (mine / out.name).rename(out)
                    sync(out.parent)
            finally:
                shutil.rmtree(mine, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}.") from error
    finally:
        holding.remove_unused(beside)


def _remove(mine: Path) -> None:
    """Remove a folder, and that around it unless others write there, too."""
    shutil.rmtree(mine, ignore_errors=True)
    mine.parent.rmdir()


def _write_whole(folder: Path, listing: dict[str, Any], source: folders.Source) -> None:
    folder.mkdir()
    paths = {(file.split, file.name): file.path for file in source.files}
    for entry in listing["files"]:
        path, target = paths.get((entry["split"], entry.pop("name"))), folder / entry["path"]
        if target.exists():
            raise UserError(
                f"{entry['path']} would be two images, since corrections put them in one class: "
                f"rename {path}."
            )
        _copy(path, target, entry["sha256"])
        entry["source"] = path.relative_to(source.root).as_posix() if path else None
    (folder / manifest.NAME).write_text(json.dumps(listing, indent=1) + "\n", "utf-8")


def _copy(source: Path | None, target: Path, sha256: str) -> None:
    try:
        data = read_regular(source, decode.LIMIT) if source else b""
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or error}.") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(f"{source or target.name} has changed while it was read: run this again.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def table(dataset: Dataset, parts: Sequence[npt.NDArray[np.int64]]) -> list[str]:
    """Tabulate classes (rows) by clients and test split, with totals; many clients as spread."""
    labels = [dataset.train.label[part] for part in parts] + [dataset.test.label]
    counts = np.array([np.bincount(one, minlength=len(dataset.class_names)) for one in labels])
    counts = np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)
    headings = [*(f"client_{client}" for client in range(len(parts))), "test"]
    if len(parts) > _MANY_CLIENTS:
        each = counts[:-1]
        headings = ["least", "median", "most", "all", "test"]
        median = np.median(each, axis=0).astype(np.int64)
        counts = np.array([each.min(0), median, each.max(0), each.sum(0), counts[-1]])
    names = [*map(printable, dataset.class_names), "all"]
    columns = [names] + [[str(count) for count in column] for column in counts]
    width = max(map(len, names))
    rows = zip(
        *([heading, *column] for heading, column in zip(["", *headings], columns, strict=True)),
        strict=True,
    )
    return [row[0].ljust(width) + "".join(cell.rjust(11) for cell in row[1:]) for row in rows]
