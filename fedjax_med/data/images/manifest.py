"""``manifest.json``: the content of client folders, written with them and checked on reading."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.errors import UserError
from fedjax_med.files import read_object, unreadable

NAME = "manifest.json"
FORMAT = 1
_LIMIT = 2**30  # bytes: enough for three million files
_ADVICE = "Restore it, or remove it to train on the folders as they are."


def entries(
    dataset: Dataset,
    parts: Sequence[npt.NDArray[np.int64]],
    filed: Mapping[tuple[str, str], str] | None = None,
) -> list[dict[str, str | int | None]]:
    """List one entry for each file of the client folders and of the test folder.

    Args:
        dataset: the whole data set.
        parts: ``C`` arrays of positions in its train split, one per client.
        filed: of images that do not lie in the folder of their class, ``<class>/<file>`` by their
            split and name.
    """
    filed = filed or {}
    names = dataset.client_names()
    folders: list[tuple[str, int | None, Split]] = [
        (names[client] if names else f"client_{client}", client, dataset.train.take(part))
        for client, part in enumerate(parts)
    ]
    folders.append(("test", None, dataset.test))
    return [
        {
            "path": f"{folder}/{filed.get((which, str(name)), name)}",
            "split": which,
            "client": client,
            "label": dataset.class_names[label],
            "sha256": str(sha256),
            "name": str(name),
        }
        for folder, client, split in folders
        for which in ["test" if client is None else "train"]
        for name, label, sha256 in zip(split.name, split.label, split.sha256, strict=True)
    ]


def _read(file: Path) -> dict[str, str]:
    """Read the SHA-256 of each path that the manifest lists."""
    manifest = read_object(file, _LIMIT, _ADVICE)
    if manifest.get("format") != FORMAT:
        fault = ValueError(f"format {manifest.get('format')!r}, expected {FORMAT}")
        raise unreadable(file, fault, _ADVICE)
    try:
        listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    except (KeyError, TypeError):
        listed = {None: None}
    if not all(isinstance(one, str) for pair in listed.items() for one in pair):
        fault = ValueError("expected files, each with its path and its sha256")
        raise unreadable(file, fault, _ADVICE)
    return listed


def check(root: Path, dataset: Dataset) -> None:
    """Refuse client folders that differ from their manifest; accept those without one.

    Args:
        root: the folder that holds ``client_0/``, ``client_1/``, ...
        dataset: the data set read from it.

    Raises:
        UserError: An image is missing, is not listed or has other bytes, or the manifest cannot
            be read.
    """
    file = root / NAME
    if (dataset.train.client < 0).any() or not os.path.lexists(file):
        return
    listed = _read(file)
    order = np.argsort(dataset.train.client, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(dataset.train.client))[:-1])
    found = {str(entry["path"]): entry["sha256"] for entry in entries(dataset, parts)}
    faults = [
        f"{path} {'is missing' if path not in found else 'is not listed'}"
        for path in sorted(listed.keys() ^ found.keys())
    ]
    faults += [
        f"{path} has other bytes"
        for path in sorted(listed.keys() & found.keys())
        if listed[path] != found[path]
    ]
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise UserError(
            f"{root} is not what its {NAME} lists: {faults[0]}{more}. Restore the images, or "
            f"remove {NAME} if the change is intended."
        )
