"""Gaussian mechanism over pytrees: clip each, sum, add noise.

Each contribution is bounded by one l2 norm over all leaves together, as in McMahan et al., ICLR
2018 and Abadi et al., CCS 2016. With noise, contributions are integers on a `Grid`, and so are
their sum, which no order of summation changes, and the noise (`fedjax_med.privacy.noise`). All that
floating point does comes before, where it cannot raise the sensitivity, or after, where it is
post-processing.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.trees import clip_factor
from fedjax_med.core.types import Array, Key
from fedjax_med.privacy import noise

_LEAST_NOISE = 2.0**-5  # noise multiplier below which the noise is not lowered any more
_ROOM = 2.0**30  # largest sum of all contributions: noise fits beside it into 32 bits
_LARGEST = 2.0**24 - 1  # integers up to here are exact in float32
_AIM = 1 - 2.0**-11  # of the norm that contributions are clipped to in floating point,
_LIMIT = 1 - 2.0**-13  # and that they have at most as integers: the difference is for rounding


class Grid(NamedTuple):
    """The integers that contributions are rounded to.

    units: the largest l2 norm of a contribution, as integers; the clip before it was rounded.
    shift: places by which the noise is shifted, so that sums of many contributions fit.
    """

    units: float
    shift: int


def grid(noise_multiplier: float, contributions: int) -> Grid | None:
    """Choose the grid for sums of this many contributions; None without noise, for exact sums.

    The noise is of a fixed number of units: the clip is as many units as the multiplier demands. A
    multiplier below 1/32, which bounds no useful epsilon, has the noise of 1/32.
    """
    if not noise_multiplier:
        return None
    units = noise.DEVIATION / max(noise_multiplier, _LEAST_NOISE)
    shift = max(0, math.ceil(math.log2(max(contributions, 1) * units / _ROOM)))
    return Grid(units / 2**shift, shift)


def norms(trees: Any) -> Array:
    """Compute the l2 norm of each of the stacked `trees` [S, ...], over all leaves: float32 [S]."""

    def norm(tree: Any) -> Array:
        return jnp.asarray(optax.tree.norm(optax.tree.cast(tree, jnp.float32)))

    return jax.vmap(norm)(trees)


def clipped_sum(
    trees: Any, lengths: Array, counts: Array, clip: Array | float, on: Grid | None
) -> Any:
    """Sum the trees that count, each scaled down to the norm `clip` if it is longer.

    A single tree, whatever it holds, changes the sum by at most `clip`: on a grid exactly, by at
    most ``on.units``; without one up to rounding in float32.

    Args:
        trees: ``[S, ...]`` in every leaf; trees that do not count may hold anything.
        lengths: [S], the trees' `norms`.
        counts: bool [S]; a tree with a NaN or an infinity, or too long for float32, never counts.
        clip: the largest l2 norm that passes.
        on: the grid, if noise is added: the sums are int32, and `clip` is its units.
    """
    counts = counts & jnp.isfinite(lengths)
    if on is not None:
        rounded = functools.partial(_on_grid, clip=clip, units=on.units)
        whole = jax.vmap(rounded)(trees, lengths, counts)
        return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, dtype=jnp.int32), whole)
    scale = clip_factor(lengths, clip)

    def one(leaf: Array, scale: Array, counts: Array) -> Array:
        return jnp.where(counts, leaf * scale.astype(leaf.dtype), 0)

    def total(leaf: Array) -> Array:
        return jnp.sum(jax.vmap(one)(leaf, scale, counts), axis=0)

    return jax.tree.map(total, trees)


def noised_mean(
    total: Any,
    clip: Array | float,
    denominator: Array | float,
    on: Grid | None,
    key: Key,
    like: Any,
) -> Any:
    """Add the noise to a `clipped_sum`, and divide by `denominator`.

    Args:
        total: the sum, on the same grid.
        clip: as of the sum; neither it nor the denominator may depend on the trees of the sum.
        denominator: above 0.
        on: the grid; None: no noise.
        key: of the noise.
        like: a tree with the dtypes of the result.
    """
    if on is None:
        return jax.tree.map(lambda leaf: leaf / jnp.asarray(denominator, leaf.dtype), total)
    leaves, structure = jax.tree.flatten(total)
    flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
    flat = flat + noise_on(on, flat.size, key)
    # From here on the noise is in it, so that what rounding does is post-processing.
    values = flat.astype(jnp.float32) * jnp.asarray(clip / on.units / denominator, jnp.float32)
    ends = [sum(leaf.size for leaf in leaves[:place]) for place in range(1, len(leaves))]
    parts = [
        part.reshape(leaf.shape).astype(kind.dtype)
        for part, leaf, kind in zip(
            jnp.split(values, ends), leaves, jax.tree.leaves(like), strict=True
        )
    ]
    return jax.tree.unflatten(structure, parts)


def noise_on(on: Grid, count: int, key: Key) -> Array:
    """Draw noise for `count` integers on a grid: int32 [count]."""
    drawn = noise.draw(key, count)
    # Multiples of 2**shift plus noise, divided by 2**shift: post-processing, too.
    return (drawn + (1 << on.shift >> 1)) >> on.shift if on.shift else drawn


def _on_grid(tree: Any, length: Array, counts: Array, clip: Array | float, units: float) -> Any:
    """Clip one tree, and round it to integers whose l2 norm is at most `units`, whatever it holds.

    Floating point decides how the tree is scaled, but not the bound: the norm of the integers is
    computed exactly, up to a rounding for which `_LIMIT` leaves room, and they are shortened
    (towards zero) if it is too large. Rounding to the grid alone lengthens no tree by that much.
    """
    longest = jnp.maximum(length, clip)

    def rounded(leaf: Array) -> Array:
        values = leaf.astype(jnp.float32) / longest * (units * _AIM)
        values = jnp.where(counts & (jnp.abs(values) < _LARGEST), values, 0.0)
        return jnp.round(values).astype(jnp.int32)

    whole = jax.tree.map(rounded, tree)
    norm = jnp.sqrt(sum(map(_sum_of_squares, jax.tree.leaves(whole))))
    factor = jnp.minimum(1.0, units * _LIMIT / jnp.maximum(norm, 1.0))
    # Whole numbers below 2**24 are exact in float32, and the conversion back is towards zero.
    return jax.tree.map(lambda leaf: (leaf.astype(jnp.float32) * factor).astype(jnp.int32), whole)


def _sum_of_squares(whole: Array) -> Array:
    """Sum the squares of integers below 2**24: float32 [], within a few units of the last place."""
    size = jnp.abs(whole).astype(jnp.uint32).ravel()
    high, low = size >> 12, size & 0xFFF
    blocks = [_in_blocks(terms, 128) for terms in (high * high, high * low, low * low)]
    of_high, mixed, of_low = map(_sum, blocks)
    return of_high * 2.0**24 + mixed * 2.0**13 + of_low


def _sum(terms: Array) -> Array:
    """Sum `terms`, uint32 [n], by integers that cannot overflow: float32 []."""
    upper, lower = _in_blocks(terms >> 16, 2**16), _in_blocks(terms & 0xFFFF, 2**16)
    return jnp.sum(upper.astype(jnp.float32)) * 2.0**16 + jnp.sum(lower.astype(jnp.float32))


def _in_blocks(terms: Array, size: int) -> Array:
    """Sum each `size` of the `terms`, uint32 [n], exactly if no sum reaches 2**32."""
    size = max(1, min(size, terms.size))
    padded = jnp.pad(terms, (0, -terms.size % size))
    return jnp.sum(padded.reshape(-1, size), axis=1, dtype=jnp.uint32)
