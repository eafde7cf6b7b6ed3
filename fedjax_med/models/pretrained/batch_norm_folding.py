"""Batch normalisation folded into the convolution before it, once, from a file's tensors.

With fixed statistics batch normalisation (Ioffe & Szegedy, ICML 2015) is a factor and an offset for
each channel, and so part of the convolution's kernel and bias. What is left has no running
statistics that a federation could average wrongly or leak.
"""

from typing import Any

import jax.numpy as jnp

from fedjax_med.core.types import Array, Params, Tensors
from fedjax_med.errors import UserError


def tensor(tensors: Tensors, name: str, shape: tuple[int, ...]) -> Any:
    """The tensor `name` as float64.

    Raises:
        UserError: There is none, or it has another shape.
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
    """A convolution and the normalisation after it as one convolution, computed in float64.

    Args:
        tensors: in torch's form: `convolution`.weight ``[out, in, H, W]``, and of `norm` weight,
            bias, running_mean and running_var ``[out]``.
        convolution: the name of it.
        norm: the name of the batch normalisation.
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
    """The linear layer `name`, or `params` as they are where it has other features.

    Args:
        tensors: in torch's form: `name`.weight ``[out, in]`` and `name`.bias ``[out]``.
        name: of the layer.
        params: "kernel" ``[in, out]`` and "bias" ``[out]``.

    Raises:
        UserError: A tensor is missing, or it takes other inputs.
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
