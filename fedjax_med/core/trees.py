"""Helpers for stacked messages ``[S, ...]``."""

import jax.numpy as jnp
from jax import Array


def broadcast_rows(values: Array, leaf: Array) -> Array:
    """Reshape `values` [S] to broadcast against `leaf` [S, ...]; the dtype stays."""
    return values.reshape(-1, *(1,) * (leaf.ndim - 1))


def clip_factor(lengths: Array, clip: Array | float) -> Array:
    """Compute the factors that scale messages of `lengths` down to at most `clip`; 1 if shorter."""
    return jnp.minimum(1.0, clip / jnp.maximum(lengths, 1e-30))
