"""``manifest.json``: what client folders hold, written when they are made, checked when read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.types import Dataset, Split

NAME = "manifest.json"
FORMAT = 1


def entries(
    dataset: Dataset, parts: Sequence[npt.NDArray[np.int64]]
) -> list[dict[str, str | int | None]]:
    """One entry for each file of the client folders and of the test folder.

    Args:
        dataset: the whole.
        parts: ``C`` arrays of positions in its train split, one per client.
    """
    folders: list[tuple[str, int | None, Split]] = [
        (f"client_{client}", client, dataset.train.take(part)) for client, part in enumerate(parts)
    ]
    folders.append(("test", None, dataset.test))
    return [
        {
            "path": f"{folder}/{name}",
            "split": "test" if client is None else "train",
            "client": client,
            "label": dataset.class_names[label],
            "sha256": str(sha256),
            "name": str(name),
        }
        for folder, client, split in folders
        for name, label, sha256 in zip(split.name, split.label, split.sha256, strict=True)
    ]


def _read(file: Path) -> dict[str, str]:
    """The SHA-256 of each path that the manifest lists."""
    try:
        manifest: Any = json.loads(file.read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}, expected {FORMAT}")
        return {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"{file} cannot be read ({reason}): restore it, or remove it to train on the folders "
            "as they are."
        ) from error


def check(root: Path, dataset: Dataset) -> None:
    """Refuse client folders that are not what their manifest says; without one, all is well.

    Args:
        root: the folder that holds ``client_0/``, ``client_1/``, ...
        dataset: what was read from it.

    Raises:
        UserError: An image is missing, is not listed or has other bytes, or the manifest does not
            read.
    """
    file = root / NAME
    if (dataset.train.client < 0).any() or not file.exists():
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
