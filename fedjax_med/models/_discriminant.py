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
import numpy as np
from scipy import linalg

from fedjax_med.core.model import Model, Statistics
from fedjax_med.core.types import Array, Examples, Key, Params
from fedjax_med.models import _sketch, _standardise

NAME = "discriminant"  # of these parameters

_LEAST = 1e-30  # mean variance within the classes, where all examples are alike
_LESS = 10.0  # by how much the logarithm is lower for a class without examples


def beside(
    model: Model, factor: float, size: int, num_classes: int, statistics: Statistics
) -> Model:
    """Add the discriminant's scores, times `factor`, to a model's logits in evaluation.

    Training sees the model's own logits: the discriminant fits its images so well that nothing
    would be left to learn.

    Args:
        model: of standardised values [B, ..., D] with D = `size`.
        factor: of the scores.
        size: D.
        num_classes: K.
        statistics: that fix the discriminant, from `statistics`.
    """

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
        kernel, bias = _solve(total["count"], total["sum"], total["products"], shrinkage)
        found = {"kernel": back(kernel), "bias": bias}
        return params | {NAME: {name: jnp.asarray(v, jnp.float32) for name, v in found.items()}}

    return Statistics(sums, fix, labelled=True)


def _solve(count: Any, total: Any, products: Any, shrinkage: float) -> tuple[Any, Any]:
    """Compute the kernel [P, K] and the bias [K] from counts [K], sums [K, P], products [P, P].

    A class without examples is always less probable than the class of the lowest bias.
    """
    means = total / np.maximum(count, 1)[:, None]
    within = (products - total.T @ means) / max(count.sum(), 1)
    variance = max(float(np.trace(within)) / len(within), _LEAST)
    shrunk = (1 - shrinkage) * within
    shrunk[np.diag_indices_from(shrunk)] += shrinkage * variance
    kernel = linalg.solve(shrunk, means.T, assume_a="pos", overwrite_a=True)
    bias = -0.5 * np.einsum("kp,pk->k", means, kernel)
    missing = count == 0
    if missing.any() and not missing.all():
        lowest = np.argmin(np.where(missing, np.inf, bias))
        kernel[:, missing], bias[missing] = kernel[:, [lowest]], bias[lowest] - _LESS
    return kernel, bias
