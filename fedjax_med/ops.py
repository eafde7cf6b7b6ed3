"""Array operations whose fastest form depends on the backend: one definition, chosen at trace time.

On a CPU, XLA runs a convolution inside a loop body, or one with a batched kernel (what `vmap` over
clients makes of it), several to dozens of times slower than the same sums written as one matrix
product; on accelerators the native convolution is the fast one.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_med.types import Array


def micro_batch() -> int:
    """How many images a network had best see at a time; 0 is all of a batch.

    Training a small network on a CPU is bound by its memory: what a few images need stays in the
    cache. An accelerator wants all that it can get.
    """
    return 4 if jax.default_backend() == "cpu" else 0


def _patches(
    image: Array, window: tuple[int, int], strides: tuple[int, int], padding: Any
) -> Array:
    """The windows of `image` [B, H, W, ch] laid side by side: [B, H', W', window * ch]."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(image.shape[1:3], window, strides, padding)
    image = jnp.pad(image, ((0, 0), *padding, (0, 0)))
    height = (image.shape[1] - window[0]) // strides[0] + 1
    width = (image.shape[2] - window[1]) // strides[1] + 1
    shifted = [
        image[
            :,
            row : row + strides[0] * (height - 1) + 1 : strides[0],
            column : column + strides[1] * (width - 1) + 1 : strides[1],
        ]
        for row in range(window[0])
        for column in range(window[1])
    ]
    return jnp.concatenate(shifted, axis=-1)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """`jax.lax.conv_general_dilated` for images, as one matrix product where that is faster.

    Args:
        lhs: images float [B, H, W, ch].
        rhs: kernel float [kernel height, kernel width, ch, features].
        window_strides: the steps of the window, one for each image axis.
        padding: "SAME", "VALID" or a (before, after) pair for each image axis.
        lhs_dilation: as in `jax.lax`.
        rhs_dilation: as in `jax.lax`.
        feature_group_count: as in `jax.lax`.
        **options: as in `jax.lax`; the dimension numbers are NHWC, HWIO, NHWC.

    Returns:
        Images float [B, H', W', features].
    """
    plain = (
        lhs.ndim == 4
        and feature_group_count == 1
        and all(step == 1 for step in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    )
    if jax.default_backend() != "cpu" or not plain:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            **options,
        )
    window = (rhs.shape[0], rhs.shape[1])
    patches = _patches(lhs, window, (window_strides[0], window_strides[1]), padding)
    return jnp.dot(patches, rhs.reshape(-1, rhs.shape[-1]), precision=options.get("precision"))


def max_pool(image: Array, window: int) -> Array:
    """The maximum of each `window` x `window` square; a remainder at the edges is cut.

    A reshape, because the derivative of `reduce_window` is slow on CPUs.

    Args:
        image: float [B, H, W, ch].
        window: side of the square in pixels.

    Returns:
        float [B, H // window, W // window, ch].
    """
    batch, height, width, channels = image.shape
    rows, columns = height // window, width // window
    cut = image[:, : rows * window, : columns * window]
    return cut.reshape(batch, rows, window, columns, window, channels).max((2, 4))
