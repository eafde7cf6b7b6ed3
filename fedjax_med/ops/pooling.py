"""Pooling."""

from fedjax_med.types import Array


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
