"""Reduces feature maps to a few numbers for each channel."""

import jax.numpy as jnp

from fedjax_med.core.types import Array


def moments(maps: Array) -> Array:
    """Compute each channel's mean over all positions, then its standard deviation.

    Args:
        maps: [B, ..., C].

    Returns:
        [B, 2 C]; of a single position the deviation is 0.
    """
    flat = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    return jnp.concatenate([jnp.mean(flat, axis=1), jnp.std(flat, axis=1)], axis=-1)
