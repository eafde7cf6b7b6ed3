"""writes one folder per client, as hospitals would hold them.

The images of --data_dir are cleaned as --config.policy says, divided as --config.partition says
and copied, byte by byte, to OUT/client_0/CLASS/, OUT/client_1/CLASS/, ... and OUT/test/CLASS/.
OUT/manifest.json lists every file. Training from OUT gives the same numbers as training from
--data_dir with the same config.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import flags as absl_flags

from fedjax_med.cli.flags import define_config, define_data
from fedjax_med.core.types import Dataset
from fedjax_med.data.images import decode, folders, holding, manifest
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, load_data
from fedjax_med.files import read_regular, sync, sync_tree

_MANY_CLIENTS = 50  # more are told of by the least, the median and the most


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_data(flags)
    absl_flags.DEFINE_string("out", "", "the folder to write: new or empty", flag_values=flags)
    define_config(flags, arguments)


def run(flags: absl_flags.FlagValues) -> None:
    """Read, clean and divide the data set, and write the client folders.

    Raises:
        UserError: A flag is missing or wrong, the data is already divided, or OUT is not writable.
    """
    experiment: config.Experiment = flags.config
    out = _check_folders(flags.data_dir, flags.out)
    division = load_data.divide(experiment, flags.data_dir, flags.cache_dir)
    dataset, parts = division.dataset, division.parts
    if (dataset.train.client >= 0).any():
        raise UserError(f"{flags.data_dir} is already divided into client folders.")
    print(division.summary)
    listing: dict[str, Any] = {
        "format": manifest.FORMAT,
        "dataset": dataset.name,
        "policy": experiment.policy,
        "partition": {
            "name": experiment.partition.name,
            "options": dict(experiment.partition.options),
        },
        "num_clients": experiment.num_clients,
        "client_names": list(division.names),
        "seed": experiment.seed,
        "class_names": list(dataset.class_names),
        "files": manifest.entries(dataset, parts),
    }
    _write(out, listing, folders.scan(flags.data_dir))
    print("\n".join(_table(dataset, parts)))
    print(f"Wrote {len(listing['files']):,} images and {manifest.NAME} to {out}.")


def _check_folders(data_dir: str, out: str) -> Path:
    if not data_dir:
        raise UserError(
            "partition copies image files: give their folder with --data_dir=FOLDER (a drawn data "
            "set such as 'lesions' has no files)."
        )
    if not out:
        raise UserError("partition needs a folder to write: give --out=FOLDER.")
    folder = Path(out).expanduser().resolve()
    if folder.is_relative_to(Path(data_dir).expanduser().resolve()):
        raise UserError(f"--out={out} lies in --data_dir={data_dir}: give a folder outside of it.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"--out={out} exists and is not an empty folder: give another or remove it."
        )
    return folder


def _write(out: Path, listing: dict[str, Any], source: folders.Source) -> None:
    """Write everything beside `out`, then put it in place: `out` is complete or not there."""
    beside = out.with_name(f".{out.name}.partial")
    holding.remove_unused(beside)  # an earlier run was killed; one that goes on holds it
    try:
        with holding.held(beside):
            mine = Path(tempfile.mkdtemp(dir=beside))
            try:
                _write_whole(mine / out.name, listing, source)
                sync_tree(mine / out.name)
                if out.exists():  # and is empty; not every system renames onto a folder
                    out.rmdir()
                (mine / out.name).rename(out)
                sync(out.parent)
            finally:
                shutil.rmtree(mine, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}.") from error
    finally:
        holding.remove_unused(beside)


def _write_whole(folder: Path, listing: dict[str, Any], source: folders.Source) -> None:
    folder.mkdir()
    paths = {(file.split, file.name): file.path for file in source.files}
    for entry in listing["files"]:
        path = paths.get((entry["split"], entry.pop("name")))
        _copy(path, folder / entry["path"], entry["sha256"])
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


def _table(dataset: Dataset, parts: Sequence[npt.NDArray[np.int64]]) -> list[str]:
    """Classes down, clients and the test split across, with totals; many clients as spread."""
    labels = [dataset.train.label[part] for part in parts] + [dataset.test.label]
    counts = np.array([np.bincount(one, minlength=len(dataset.class_names)) for one in labels])
    counts = np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)
    headings = [*(f"client_{client}" for client in range(len(parts))), "test"]
    if len(parts) > _MANY_CLIENTS:
        each = counts[:-1]
        headings = ["least", "median", "most", "all", "test"]
        median = np.median(each, axis=0).astype(np.int64)
        counts = np.array([each.min(0), median, each.max(0), each.sum(0), counts[-1]])
    names = [*dataset.class_names, "all"]
    columns = [names] + [[str(count) for count in column] for column in counts]
    width = max(map(len, names))
    rows = zip(
        *([heading, *column] for heading, column in zip(["", *headings], columns, strict=True)),
        strict=True,
    )
    return [row[0].ljust(width) + "".join(cell.rjust(11) for cell in row[1:]) for row in rows]
