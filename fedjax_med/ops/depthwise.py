"""Depthwise convolution: every channel has its own kernel."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_med.core.types import Array
from fedjax_med.ops.patches import Pads, windows


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(image: Array, kernel: Array, strides: tuple[int, int], padding: Pads) -> Array:
    """Sum the shifted images over the window, each times its kernel entry.

    Args:
        image: float [B, H, W, ch].
        kernel: float [kernel height, kernel width, 1, ch].
        strides: the strides of the window.
        padding: zeros (before, after) for each image axis.

    Returns:
        float [B, H', W', ch].
    """
    flat = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])
    shifted = windows(image, (kernel.shape[0], kernel.shape[1]), strides, padding)
    total = shifted[0] * flat[0]
    for one, factor in zip(shifted[1:], flat[1:], strict=True):
        total = total + one * factor
    return total


def _forward(
    image: Array, kernel: Array, strides: tuple[int, int], padding: Pads
) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(image, kernel, strides, padding), (image, kernel)


def _backward(
    strides: tuple[int, int], padding: Pads, saved: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    image, kernel = saved
    rows, columns, _, channels = kernel.shape
    shifted = windows(image, (rows, columns), strides, padding)
    to_kernel = jnp.stack([jnp.sum(one * cotangent, axis=(0, 1, 2)) for one in shifted])
    # Put zeros between the cotangent's pixels for the strides; then convolve with stride 1.
    spread = [(0, 0, 0)]
    for size, out, step, side, (before, _) in zip(
        image.shape[1:3], cotangent.shape[1:3], strides, (rows, columns), padding, strict=True
    ):
        low = side - 1 - before
        spread.append((low, size + before - (out - 1) * step - 1, step - 1))
    spread.append((0, 0, 0))
    padded = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), spread)
    none = ((0, 0), (0, 0))
    to_image = depthwise(padded, kernel[::-1, ::-1], (1, 1), none)
    return to_image, to_kernel.reshape(rows, columns, 1, channels)


depthwise.defvjp(_forward, _backward)
