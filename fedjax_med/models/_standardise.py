"""Standardises features by their mean and deviation over all clients' training examples.

Both come from sums that every client computes over its own examples: first for the mean, then of
the squared distances from it, which float32 holds better than a difference of large sums.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_med.core.model import Statistics
from fedjax_med.core.types import Array, Examples, Params

NAME = "standardise"  # of these parameters


def init(size: int) -> Params:
    """Build the parameters of features [B, `size`] before the sums: mean 0, deviation 1."""
    return {"mean": jnp.zeros(size), "deviation": jnp.ones(size)}


def apply(params: Params, values: Array) -> Array:
    """Standardise [B, D]; nothing is trained by it, and a value that never varies gives 0."""
    mean, deviation = jax.lax.stop_gradient((params["mean"], params["deviation"]))
    varies = (deviation > 0)[None]
    divisor = jnp.where(varies, deviation[None], 1.0)
    return jnp.where(varies, (values - mean[None]) / divisor, 0.0)


def _sums(values: Array, examples: Examples) -> Params:
    """Add up values [N, V, D] over the real examples and their views."""
    real = jnp.where(examples.mask[:, None, None], values, 0.0)
    return {
        "sum": jnp.sum(real, axis=(0, 1)),
        "count": jnp.sum(examples.mask, dtype=jnp.float32) * values.shape[1],
    }


def _values(examples: Examples) -> Array:
    features = examples.image  # [N, V, 1, 1, D]
    values: Array = features.reshape(*features.shape[:2], -1).astype(jnp.float32)
    return values


def _about_mean(params: Params, examples: Examples) -> Params:
    distance = _values(examples) - params[NAME]["mean"][None, None]
    return _sums(distance**2, examples)


def _fix(params: Params, **values: Any) -> Params:
    fixed = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    return params | {NAME: params[NAME] | fixed}


def _mean(total: Any) -> Any:
    return total["sum"] / max(total["count"], 1)


STATISTICS = (
    Statistics(
        lambda params, examples: _sums(_values(examples), examples),
        lambda params, total: _fix(params, mean=_mean(total)),
    ),
    Statistics(
        _about_mean,
        lambda params, total: _fix(params, deviation=_mean(total) ** 0.5),
    ),
)
