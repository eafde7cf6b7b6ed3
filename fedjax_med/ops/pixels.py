"""Matrix products over all pixels of an image, in the fastest form for XLA's CPU compiler.

Arrays are flattened to matrices first: XLA transposes and copies the operands of products with
several batch or contracted axes.
"""

from jax import lax

from fedjax_med.core.types import Array


def matrix_product(image: Array, matrix: Array) -> Array:
    """Multiply each pixel's channels by `matrix` [ch, features]: [..., ch] to [..., features]."""
    flat = lax.dot(image.reshape(-1, image.shape[-1]), matrix)
    return flat.reshape(*image.shape[:-1], matrix.shape[-1])


def sum_of_products(image: Array, other: Array) -> Array:
    """Sum the outer products of the channels over all pixels.

    Args:
        image: float [B, H, W, ch].
        other: float [B, H, W, features].

    Returns:
        float [ch, features].
    """
    pair = (image.reshape(-1, image.shape[-1]), other.reshape(-1, other.shape[-1]))
    return lax.dot_general(*pair, (((0,), (0,)), ((), ())))
