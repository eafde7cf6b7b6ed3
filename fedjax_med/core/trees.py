"""What is done with the stacked messages ``[S, ...]`` wherever they are seen."""

import jax.numpy as jnp
from jax import Array


def rows(values: Array, leaf: Array) -> Array:
    """`values` [S] in a shape that goes with `leaf` [S, ...], in their own type."""
    return values.reshape(-1, *(1,) * (leaf.ndim - 1))


def clip_factor(lengths: Array, clip: Array | float) -> Array:
    """What scales messages of these `lengths` down to at most `clip`; 1 where they are shorter."""
    return jnp.minimum(1.0, clip / jnp.maximum(lengths, 1e-30))
