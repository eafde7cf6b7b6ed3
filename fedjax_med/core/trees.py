"""Helpers for pytrees of arrays, such as stacked messages ``[S, ...]``."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def broadcast_rows(values: Array, leaf: Array) -> Array:
    """Reshape `values` [S] to broadcast against `leaf` [S, ...]; the dtype stays."""
    return values.reshape(-1, *(1,) * (leaf.ndim - 1))


def clip_factor(lengths: Array, clip: Array | float) -> Array:
    """Compute the factors that scale messages of `lengths` down to at most `clip`; 1 if shorter."""
    return jnp.minimum(1.0, clip / jnp.maximum(lengths, 1e-30))


def zeros_like_shapes(shapes: Any) -> Any:
    """Build zeros in the shapes and dtypes of a pytree of arrays or `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def take(tree: Any, index: Any) -> Any:
    """Index the leading axis of every leaf: with an integer one row, with an array several."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def select(condition: Array, chosen: Any, other: Any) -> Any:
    """Select the leaves of `chosen` where `condition` (bool []) holds, else those of `other`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)


def not_finite(tree: Any) -> list[str]:
    """Name the leaves of `tree` that hold NaN or infinity, by their path."""
    flags = jax.tree_util.tree_leaves_with_path(_finite_leaves(tree))
    return [name_of(path) for path, finite in flags if not finite]


def name_of(path: Any) -> str:
    """Return the name of a leaf, such as ``params/w``; "the array" if the tree is one."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "the array"


@jax.jit
def _finite_leaves(tree: Any) -> Any:
    def finite(leaf: Any) -> Array:
        real = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        return jnp.all(jnp.isfinite(leaf)) if real else jnp.bool_(True)

    return jax.tree.map(finite, tree)
