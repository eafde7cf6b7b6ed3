"""Parameters as a file of safetensors: each array under its path, joined by ``/``."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from fedjax_med.core.model import Tensors
from fedjax_med.core.trees import name_of
from fedjax_med.core.types import Params
from fedjax_med.errors import UserError, printable
from fedjax_med.files import unreadable
from fedjax_med.models.pretrained import weights

MODEL, FROZEN = "model", "frozen"  # the first part of a name: what is trained, and what is not

_HEADER = 2**22  # bytes of safetensors' names and shapes, at most


def named(params: Params, part: str) -> dict[str, Any]:
    """Return the leaves of `params`, arrays or their shapes, by ``PART/PATH``.

    Raises:
        UserError: Two of them would have one name.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {f"{part}/{name_of(path)}": leaf for path, leaf in leaves}
    if len(found) < len(leaves):
        raise UserError(
            "two parameters of the model have one name where their paths are joined by '/': "
            "expected keys without '/' in the model's parameters."
        )
    return found


def filled(shapes: Params, part: str, tensors: Mapping[str, npt.NDArray[Any]]) -> Params:
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
    found = weights.read_safetensors(file)
    if wrong := differing(found, wanted):
        raise unreadable(file, ValueError(wrong), advice)
    weights.check_finite(file, found)
    return found


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Say in which tensor `found` differs from what is `wanted`; "" if in none."""
    if missing := sorted(wanted.keys() - found.keys()):
        return f"the tensor {printable(missing[0])} is missing ({len(missing)} in all)"
    if more := sorted(found.keys() - wanted.keys()):
        return f"the tensor {printable(more[0])} is not of this model ({len(more)} in all)"
    for name, one in wanted.items():
        given = found[name]
        if given.shape != one.shape or given.dtype != one.dtype:
            return (
                f"{printable(name)} is {given.dtype} {given.shape}, expected "
                f"{np.dtype(one.dtype)} {one.shape}"
            )
    return ""
