"""Max pooling."""

import jax.numpy as jnp
from jax import lax

from fedjax_med.core.types import Array
from fedjax_med.ops.platform import platform


def max_pool(image: Array, window: int) -> Array:
    """Compute the maximum of each `window` x `window` square; a remainder at the edges is cut.

    The gradient goes to the first of equal pixels. On CPUs a square's pixels are compared one after
    the other, because the derivative of `reduce_window` is slow there.

    Args:
        image: float [B, H, W, ch].
        window: side of the square in pixels.

    Returns:
        float [B, H // window, W // window, ch].
    """
    if platform() != "cpu":
        size = (1, window, window, 1)
        pooled: Array = lax.reduce_window(image, -jnp.inf, lax.max, size, size, "VALID")
        return pooled
    batch, height, width, channels = image.shape
    rows, columns = height // window, width // window
    cut = image[:, : rows * window, : columns * window]
    squares = cut.reshape(batch, rows, window, columns, window, channels)
    largest = squares[:, :, 0, :, 0]
    for place in range(1, window * window):
        other = squares[:, :, place // window, :, place % window]
        keep = (other <= largest) | jnp.isnan(largest)
        largest = jnp.where(keep, largest, other)
    return largest
