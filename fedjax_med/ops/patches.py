"""Windows of an image, side by side (im2col)."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from fedjax_med.core.types import Array

Pads = tuple[tuple[int, int], tuple[int, int]]


def explicit_padding(
    size: tuple[int, ...], window: tuple[int, int], strides: tuple[int, int], padding: Any
) -> Pads:
    """Convert `padding` ("SAME", "VALID" or pairs) to (before, after) pairs for image `size`."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, window, strides, padding)
    rows, columns = padding
    return (int(rows[0]), int(rows[1])), (int(columns[0]), int(columns[1]))


def windows(
    image: Array, window: tuple[int, int], strides: tuple[int, int], padding: Pads
) -> list[Array]:
    """Slice one array for each window position, row by row: `window` times [B, H', W', ch]."""
    image = lax.optimization_barrier(jnp.pad(image, ((0, 0), *padding, (0, 0))))
    height = (image.shape[1] - window[0]) // strides[0] + 1
    width = (image.shape[2] - window[1]) // strides[1] + 1
    return [
        image[
            :,
            row : row + strides[0] * (height - 1) + 1 : strides[0],
            column : column + strides[1] * (width - 1) + 1 : strides[1],
        ]
        for row in range(window[0])
        for column in range(window[1])
    ]


def patches(
    image: Array, window: tuple[int, int], strides: tuple[int, int], padding: Pads
) -> Array:
    """Lay the windows of `image` [B, H, W, ch] side by side: [B, H', W', window * ch]."""
    return jnp.concatenate(windows(image, window, strides, padding), axis=-1)
