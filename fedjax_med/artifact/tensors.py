"""Parameters as a file of safetensors: each array under its path, joined by ``/``."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_med.core.model import Tensors
from fedjax_med.core.trees import name_of
from fedjax_med.core.types import Params
from fedjax_med.errors import UserError
from fedjax_med.files import unreadable
from fedjax_med.models.pretrained.exported import FROZEN as FROZEN
from fedjax_med.models.pretrained.exported import MODEL as MODEL
from fedjax_med.models.pretrained.exported import differing as differing
from fedjax_med.models.pretrained.exported import named as named
from fedjax_med.models.pretrained.safetensors_file import check_finite, read_safetensors

_HEADER = 2**22  # bytes of safetensors' names and shapes, at most


def filled(shapes: Params, part: str, tensors: Mapping[str, Any]) -> Params:
    """Put the tensors that `named` called so into the structure of `shapes`."""
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    return jax.tree.unflatten(structure, [tensors[f"{part}/{name_of(path)}"] for path, _ in paths])


def write(file: Path, tensors: Tensors) -> None:
    """Write `tensors` as safetensors.

    Raises:
        UserError: The package safetensors is not installed.
        OSError: The file cannot be written.
    """
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            'writing safetensors needs pip install "fedjax_med[pretrained]", or in a clone '
            '.venv/bin/pip install -e ".[pretrained]".'
        ) from error
    file.write_bytes(safetensors.numpy.save(tensors))


def read(file: Path, wanted: Mapping[str, Any], advice: str) -> Tensors:
    """Read the tensors of `file`, which must be those `wanted`, with their shapes and dtypes.

    The size of the file is compared before it is read.

    Args:
        file: of safetensors.
        wanted: the shapes (`jax.ShapeDtypeStruct`) by name.
        advice: the last sentence of a message.

    Raises:
        UserError: It cannot be read, or a tensor is missing, is one too many, has another shape or
            dtype, or is not finite.
    """
    expected = sum(math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in wanted.values())
    size = file.stat().st_size
    if not expected <= size <= expected + _HEADER:
        reason = f"it has {size:,} bytes, and the tensors of its model take {expected:,}"
        raise unreadable(file, ValueError(reason), advice)
    found = read_safetensors(file)
    if wrong := differing(found, wanted):
        raise unreadable(file, ValueError(wrong), advice)
    check_finite(file, found)
    return found
