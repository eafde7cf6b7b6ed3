"""Folds batch normalisation into the convolution before it, once, from a file's tensors.

With fixed statistics batch normalisation (Ioffe & Szegedy, ICML 2015) is a factor and an offset for
each channel, which the convolution's kernel and bias can absorb. The folded model has no running
statistics that a federation could average wrongly or leak.
"""

from typing import Any

import jax.numpy as jnp

from fedjax_med.core.model import Tensors
from fedjax_med.core.types import Array, Params
from fedjax_med.errors import UserError


def tensor(tensors: Tensors, name: str, shape: tuple[int, ...]) -> Any:
    """Return the tensor `name` as float64.

    Raises:
        UserError: It is missing or has another shape.
    """
    if name not in tensors:
        raise UserError(
            f"the weights have no tensor {name!r}: they are of another network than the model "
            f"(they begin with {', '.join(map(repr, list(tensors)[:3])) or 'nothing'})."
        )
    found = tensors[name]
    if found.shape != shape:
        raise UserError(
            f"the weights are of another network than the model: expected {name!r} to have shape "
            f"{shape}, got {found.shape}."
        )
    return found.astype("float64")


def fold(tensors: Tensors, convolution: str, norm: str, params: Params, epsilon: float) -> Params:
    """Fold a convolution and the normalisation after it into one convolution, in float64.

    Args:
        tensors: in torch's layout: `convolution`.weight ``[out, in, H, W]``, and of `norm` weight,
            bias, running_mean and running_var ``[out]``.
        convolution: the convolution's name.
        norm: the batch normalisation's name.
        params: "kernel" ``[H, W, in, out]`` and "bias" ``[out]``, for their shapes.
        epsilon: added to the variance.

    Returns:
        float32 "kernel" and "bias".

    Raises:
        UserError: A tensor is missing or has another shape.
    """
    height, width, channels, features = params["kernel"].shape
    weight = tensor(tensors, f"{convolution}.weight", (features, channels, height, width))
    scale, offset, mean, variance = (
        tensor(tensors, f"{norm}.{name}", (features,))
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / (variance + epsilon) ** 0.5
    return {
        "kernel": _array(weight.transpose(2, 3, 1, 0) * factor),
        "bias": _array(offset - mean * factor),
    }


def dense(tensors: Tensors, name: str, params: Params) -> Params:
    """Return the linear layer `name`, or `params` unchanged if it has another number of outputs.

    Args:
        tensors: in torch's layout: `name`.weight ``[out, in]`` and `name`.bias ``[out]``.
        name: the layer's name.
        params: "kernel" ``[in, out]`` and "bias" ``[out]``.

    Raises:
        UserError: A tensor is missing or, with as many outputs, has another shape.
    """
    channels, features = params["kernel"].shape
    if f"{name}.weight" in tensors and len(tensors[f"{name}.weight"]) != features:
        return params
    return {
        "kernel": _array(tensor(tensors, f"{name}.weight", (features, channels)).T),
        "bias": _array(tensor(tensors, f"{name}.bias", (features,))),
    }


def _array(value: Any) -> Array:
    return jnp.asarray(value.astype("float32"))
