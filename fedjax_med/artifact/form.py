"""The form of a bundle: its files, its version, and what its ``bundle.json`` must hold."""

import json
import math
from pathlib import Path
from typing import Any

from fedjax_med.data.images.decode import CROPS
from fedjax_med.errors import UserError
from fedjax_med.files import unreadable
from fedjax_med.models.pretrained import torch_file
from fedjax_med.models.pretrained.exported import ADVICE as ADVICE
from fedjax_med.models.pretrained.exported import FORMAT as FORMAT
from fedjax_med.models.pretrained.exported import INFO as INFO
from fedjax_med.models.pretrained.exported import TENSORS as TENSORS
from fedjax_med.models.pretrained.exported import VERSION as VERSION
from fedjax_med.models.pretrained.exported import damaged as damaged
from fedjax_med.models.pretrained.exported import digest, versioned

CARD = "README.md"
PROGRAM = "program.stablehlo"  # optional
LARGEST_SIDE = 4096  # pixels of an image; a larger one would exhaust the memory

_EXPERIMENT = 2**16  # characters of the experiment in it
_MOST_CLASSES = 10_000
_FILES = {TENSORS: torch_file.LIMIT, CARD: 2**22}  # with the most bytes of each
LARGEST_PROGRAM = 2**26  # bytes
_KINDS: dict[str, type] = {
    "experiment": dict,
    "class_names": list,
    "preprocessing": dict,
    "files": dict,
    "provenance": dict,
    "privacy": dict,
}
_VIEWS = (1, 2, 4, 8)


def read_info(folder: Path) -> dict[str, Any]:
    """Read the ``bundle.json`` of the bundle in `folder` and check every other file's SHA-256.

    Raises:
        UserError: There is no bundle, it is of another version, or a file is missing or differs.
    """
    file = folder / INFO
    if not file.is_file():
        raise UserError(
            f"{folder} is no bundle: expected a folder with {INFO}, as `fedjax-med export` writes."
        )
    info = versioned(folder)
    if wrong := fault(info):
        raise unreadable(file, ValueError(wrong), ADVICE)
    for name, limit in _limits(PROGRAM in info["files"]).items():
        if digest(folder / name, limit) != info["files"][name]:
            raise damaged(folder / name)
    return info


def fault(info: dict[str, Any]) -> str:
    """Say what is wrong with the content of ``bundle.json``; "" if nothing is."""
    wrong = [name for name, kind in _KINDS.items() if not isinstance(info.get(name), kind)]
    if wrong:
        return f"{wrong[0]} is not what `export` writes"
    names, files = info["class_names"], info["files"]
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        return "expected class names that differ from each other"
    if not 0 < len(names) <= _MOST_CLASSES:
        return f"expected from 1 to {_MOST_CLASSES:,} classes"
    if fault_of_files := _fault_of_files(files, info.get("program")):
        return fault_of_files
    if len(json.dumps(info["experiment"])) > _EXPERIMENT:
        return f"expected an experiment of at most {_EXPERIMENT:,} characters"
    return _fault_of_numbers(info)


def _limits(has_program: bool) -> dict[str, int]:
    """Return the most bytes of each file of a bundle but ``bundle.json``, by name."""
    return _FILES | ({PROGRAM: LARGEST_PROGRAM} if has_program else {})


def _fault_of_files(files: dict[str, Any], program: Any) -> str:
    has_program = PROGRAM in files
    known = all(isinstance(one, str) for one in files.values())
    if set(files) != set(_limits(has_program)) or not known:
        return f"expected the SHA-256 of {' and '.join(_FILES)} in files"
    of = program if isinstance(program, dict) else {}
    if has_program and type(of.get("calling_convention")) is not int:
        return f"expected the calling_convention of {PROGRAM} in program"
    return ""


def _fault_of_numbers(info: dict[str, Any]) -> str:
    seen, temperature = info["preprocessing"], info.get("temperature")
    side = seen.get("image_size")
    if type(side) is not int or not 0 < side <= LARGEST_SIDE:
        return f"expected an image_size from 1 to {LARGEST_SIDE}"
    if seen.get("crop") not in CROPS:
        return f"expected a crop of {', '.join(CROPS)}"
    black_white = seen.get("range")
    if black_white is not None:
        if not isinstance(black_white, list) or len(black_white) != 2:
            return "expected black and white, or null, as range"
        if not all(map(is_number, black_white)) or not black_white[0] < black_white[1]:
            return "expected black below white in range"
    if type(info.get("tta_views")) is not int or info["tta_views"] not in _VIEWS:
        return "expected tta_views of 1, 2, 4 or 8"
    if temperature is not None and not (is_number(temperature) and temperature > 0):
        return "expected a temperature above 0, or null"
    return ""


def is_number(value: Any) -> bool:
    """Tell whether `value` is a finite number, and no truth value."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value)


def digests(folder: Path) -> dict[str, str]:
    """Compute the SHA-256 of each file of a bundle but ``bundle.json``, by name.

    Raises:
        UserError: As in `digest`.
    """
    limits = _limits((folder / PROGRAM).exists())
    return {name: digest(folder / name, limit) for name, limit in limits.items()}
