"""A shrinkage linear discriminant: a classifier in closed form, from sums over the clients.

Each client adds up its examples of every class, and the products of their values; the means of the
classes, the covariance within them and the classifier follow from the totals (Fisher, 1936). It is
the one that all images together would give, after one exchange. The covariance is shrunk towards a
multiple of the identity, since there are more values than images (Friedman, "Regularized
discriminant analysis", JASA 1989); all classes have the same prior probability.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_med.core.model import Model, Statistics
from fedjax_med.core.types import Array, Examples, Key, Params
from fedjax_med.errors import UserError
from fedjax_med.models import _sketch, _standardise

NAME = "discriminant"  # of these parameters

_LEAST = 1e-30  # mean variance within the classes, where all examples are alike
_LESS = 10.0  # by how much the logarithm is lower for a class without examples


def check(factor: float, shrinkage: float, projection: int, views: int) -> None:
    """Refuse options of model ``frozen_layers`` that are out of their range."""
    of = "expected model frozen_layers to have"
    if not factor >= 0:
        raise UserError(f"{of} discriminant of at least 0, got {factor}.")
    if not 0 < shrinkage <= 1:
        raise UserError(f"{of} shrinkage in (0, 1], got {shrinkage}.")
    for name, value in (("projection", projection), ("discriminant_views", views)):
        if value < 0:
            raise UserError(f"{of} {name} of at least 0, got {value}.")


def beside(
    model: Model, factor: float, size: int, num_classes: int, statistics: Statistics
) -> Model:
    """Add the discriminant's scores, times `factor`, to a model's logits in evaluation.

    Training sees the model's own logits: the discriminant fits its images so well that nothing
    would be left to learn.

    Args:
        model: of standardised values [B, ..., D] with D = `size`; returned if `factor` is 0.
        factor: of the scores.
        size: D.
        num_classes: K.
        statistics: that fix the discriminant, from `statistics`.
    """
    if not factor:
        return model

    def init(key: Key, image_shape: tuple[int, int, int]) -> Params:
        zeros = {"kernel": jnp.zeros((size, num_classes)), "bias": jnp.zeros(num_classes)}
        return model.init(key, image_shape) | {NAME: zeros}

    def apply(params: Params, images: Array, key: Key | None) -> Array:
        logits = model.apply(params, images, key)
        if key is not None:
            return logits
        values = _standardise.apply(params[_standardise.NAME], images.reshape(-1, size))
        found: Array = factor * (values @ params[NAME]["kernel"] + params[NAME]["bias"][None])
        return logits + found

    return model._replace(
        init=init,
        apply=apply,
        statistics=(*model.statistics, statistics),
        fixed=(*model.fixed, NAME),
    )


def statistics(size: int, num_classes: int, shrinkage: float, width: int, views: int) -> Statistics:
    """Build the sums of standardised values and of their products, and what follows from them.

    Args:
        size: D, the number of values.
        num_classes: K.
        shrinkage: in (0, 1], the share of the identity in the covariance.
        width: P, the values that are left by a random projection (`_sketch`); 0: all.
        views: how many of each example's views count, the first of them; 0: all.
    """
    project, back = _sketch.build(size, width or size)

    def sums(params: Params, examples: Examples) -> dict[str, Array]:
        seen = examples.image[:, : views or None]
        flat = seen.reshape(-1, size).astype(jnp.float32)  # the views of one example in a row
        rows = project(_standardise.apply(params[_standardise.NAME], flat))
        times = seen.shape[1]
        real = jnp.repeat(examples.mask.astype(jnp.float32), times)[:, None]
        rows = jnp.where(real > 0, rows, 0.0)
        member = jax.nn.one_hot(jnp.repeat(examples.label, times), num_classes) * real
        return {
            "count": jnp.sum(member, axis=0),
            "sum": jnp.matmul(member.T, rows, precision="highest"),
            "products": jnp.matmul(rows.T, rows, precision="highest"),
        }

    def fix(params: Params, total: Any) -> Params:
        with jax.enable_x64(True):
            kernel, bias = _solve(total["count"], total["sum"], total["products"], shrinkage)
            found = {"kernel": back(kernel), "bias": bias}
            found = {name: value.astype(jnp.float32) for name, value in found.items()}
        return params | {NAME: found}

    return Statistics(sums, fix, labelled=True)


def _solve(count: Array, total: Array, products: Array, shrinkage: float) -> tuple[Array, Array]:
    """Compute the kernel [P, K] and the bias [K] from counts [K], sums [K, P], products [P, P].

    A class without examples is always less probable than the class of the lowest bias.
    """
    means = total / jnp.maximum(count, 1)[:, None]
    within = (products - total.T @ means) / jnp.maximum(jnp.sum(count), 1)
    variance = jnp.maximum(jnp.trace(within) / len(within), _LEAST)
    shrunk = (1 - shrinkage) * within + shrinkage * variance * jnp.eye(len(within))
    kernel = jax.scipy.linalg.solve(shrunk, means.T, assume_a="pos")
    bias = -0.5 * jnp.einsum("kp,pk->k", means, kernel)
    present = count > 0
    lowest = jnp.argmin(jnp.where(present, bias, jnp.inf))
    kernel = jnp.where(present[None], kernel, kernel[:, lowest][:, None])
    return kernel, jnp.where(present, bias, bias[lowest] - _LESS)
