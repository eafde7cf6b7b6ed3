"""Matrix products over all pixels of an image, in the form that XLA's CPU compiler runs fastest.

Arrays are flattened to matrices first: products with several batch or contracted axes are
transposed and copied.
"""

from jax import lax

from fedjax_med.core.types import Array


def matrix_product(image: Array, matrix: Array) -> Array:
    """Each pixel's channels times `matrix`: [B, H, W, ch] and [ch, features] to [..., features]."""
    flat = lax.dot(image.reshape(-1, image.shape[-1]), matrix)
    return flat.reshape(*image.shape[:-1], matrix.shape[-1])


def sum_of_products(image: Array, other: Array) -> Array:
    """The outer products of the pixels' channels, added up.

    Args:
        image: float [B, H, W, ch].
        other: float [B, H, W, features].

    Returns:
        float [ch, features].
    """
    pair = (image.reshape(-1, image.shape[-1]), other.reshape(-1, other.shape[-1]))
    return lax.dot_general(*pair, (((0,), (0,)), ((), ())))
