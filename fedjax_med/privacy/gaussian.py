"""Gaussian mechanism over pytrees: clip each, sum, add noise.

Each contribution is bounded by one l2 norm over all leaves together, as in McMahan et al., ICLR
2018 and Abadi et al., CCS 2016. (`jax_privacy.clipped_grad` does the same; it would bring eight
more packages, pydantic's compiled core among them, for these few lines.)
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.trees import clip_factor
from fedjax_med.core.types import Array, Key


def norms(trees: Any) -> Array:
    """Compute the l2 norm of each of the stacked `trees` [S, ...], over all leaves: float32 [S]."""

    def norm(tree: Any) -> Array:
        return jnp.asarray(optax.tree.norm(optax.tree.cast(tree, jnp.float32)))

    return jax.vmap(norm)(trees)


def clipped_sum(trees: Any, lengths: Array, counts: Array, clip: Array | float) -> Any:
    """Sum the trees that count, each scaled down to the norm `clip` if it is longer.

    A single tree, whatever it holds, changes the sum by at most `clip` (up to rounding in float32).

    Args:
        trees: ``[S, ...]`` in every leaf; trees that do not count may hold anything.
        lengths: [S], the trees' `norms`.
        counts: bool [S]; a tree with a NaN or an infinity, or too long for float32, never counts.
        clip: the largest l2 norm that passes.
    """
    counts = counts & jnp.isfinite(lengths)
    scale = clip_factor(lengths, clip)

    def one(leaf: Array, scale: Array, counts: Array) -> Array:
        return jnp.where(counts, leaf * scale.astype(leaf.dtype), 0)

    def total(leaf: Array) -> Array:
        return jnp.sum(jax.vmap(one)(leaf, scale, counts), axis=0)

    return jax.tree.map(total, trees)


def with_noise(tree: Any, deviation: Array | float, key: Key) -> Any:
    """Add independent Gaussian noise of this standard deviation to every number in `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + jnp.asarray(deviation, leaf.dtype) * jax.random.normal(one, leaf.shape, leaf.dtype)
        for leaf, one in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)
