"""Arithmetic of 95 % confidence intervals: for rates, and for sums of figures that have intervals.

A rate is estimated by the mean of n values in [0, 1]. If they are 0 or 1 its interval is the exact
one of Clopper and Pearson (Biometrika 1934). Values in between vary less and count as more
examples: n is replaced by the number of 0s and 1s whose mean would have the same variance (Korn and
Graubard, Survey Methodology 1998). Sums of several figures have the interval of Zou and Donner
(Statistics in Medicine 2008): the distances of each figure to its limits are added as standard
deviations are. Images of one group count as fewer: their number is divided by the design effect
(`clusters`).
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from fedjax_med.evaluation import clusters

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

TAIL = 0.025  # on each side
# Between the interval of Clopper and Pearson and Jeffreys', for what is less discrete than a count.
BETWEEN = 1 / 3
_NONE = 1e-9  # so few successes are none


class Interval(NamedTuple):
    """The limits of a 95 % confidence interval, arrays of one shape."""

    low: Floats
    high: Floats


def limits(interval: Interval) -> list[float | None]:
    """Return the limits of one interval as JSON numbers; None where they are undefined."""
    return [float(limit) if np.isfinite(limit) else None for limit in interval]


class Rates(NamedTuple):
    """Means of values in [0, 1], and the numbers of 0s and 1s that would vary as much."""

    mean: Floats  # [...]
    size: Floats  # [...]

    @property
    def variance(self) -> Floats:
        """Return the variance of the means: ``[...]``."""
        return np.asarray(self.mean * (1 - self.mean) / self.size)


def grouped(of: Rates, effect: Floats) -> Rates:
    """Return the rates of examples whose groups have this design effect."""
    return of._replace(size=np.asarray(of.size / effect))


def rates(values: npt.NDArray[Any], axis: int = -1) -> Rates:
    """Compute the means over `axis` of values in [0, 1].

    The variance of the values is estimated with one more value, which is 0 or 1: so a few that are
    all equal do not count as very many.
    """
    size = values.shape[axis]
    mean = values.mean(axis=axis)
    squares = ((values - np.expand_dims(mean, axis)) ** 2).sum(axis=axis)
    most = mean * (1 - mean)
    ratio = np.ones_like(most)
    np.divide((size + 1) * most, squares + most, out=ratio, where=most > _NONE)
    return Rates(np.asarray(mean), np.asarray(size * np.maximum(ratio, 1)))


def proportion(
    mean: npt.ArrayLike, size: npt.ArrayLike, prior: float = 0.0, tail: float = TAIL
) -> Interval:
    """Compute the exact interval of a proportion, which covers it in at least 95 % of samples.

    Args:
        mean: the share of successes, ``[...]``.
        size: the number of trials, ``[...]``; need not be an integer.
        prior: 0: Clopper and Pearson's; 0.5: the narrower one of Jeffreys, which covers 95 % only
            on average (Brown, Cai and DasGupta, Statistical Science 2001).
        tail: the largest probability of the truth beyond each limit.

    Returns:
        Limits in [0, 1]; 0 without a success and 1 without a failure.
    """
    n = np.asarray(size, np.float64)
    hits = np.asarray(mean) * n
    misses = n - hits
    with np.errstate(invalid="ignore"):
        low = special.betaincinv(hits + prior, misses + 1 - prior, tail)
        high = special.betaincinv(hits + 1 - prior, misses + prior, 1 - tail)
    return Interval(np.where(hits > _NONE, low, 0.0), np.where(misses > _NONE, high, 1.0))


def mean_rate(of: Rates, variance: npt.ArrayLike, prior: float = 0.0) -> Interval:
    """Compute the interval of the mean of K rates: ``[...]``.

    It is the wider of two: `composed` of the rates' own, which is too narrow where few
    failures are spread over many rates; and that of one proportion with the mean's variance, which
    is too narrow where rates of few examples differ from the others (compare Fay and Feuer 1997).

    Args:
        of: the rates, each ``[..., K]``.
        variance: of their mean, ``[...]``.
        prior: of the rates' own intervals, as in `proportion`.
    """
    classes = of.mean.shape[-1]
    own = composed(of.mean, proportion(of.mean, of.size, prior), np.full(classes, 1 / classes))
    return wider(own, of.mean.mean(axis=-1), variance)


def wider(own: Interval, mean: Floats, variance: npt.ArrayLike) -> Interval:
    """Widen an interval in [0, 1] to that of a proportion with this mean and variance."""
    varies = np.asarray(variance) > 0
    size = np.ones_like(mean)
    np.divide(mean * (1 - mean), variance, out=size, where=varies)
    matched = proportion(mean, size)
    low = np.where(varies, np.minimum(own.low, matched.low), own.low)
    high = np.where(varies, np.maximum(own.high, matched.high), own.high)
    return Interval(np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0))


def composed(
    values: Floats, of: Interval, coefficients: Floats, shared: npt.NDArray[Any] | None = None
) -> Interval:
    """Compute the interval of the sum of `coefficients` times `values`: ``[...]``.

    Args:
        values: the estimates, ``[..., K]``.
        of: their intervals, each ``[..., K]``.
        coefficients: ``[K]``.
        shared: the correlations of the estimates, as rows of unit length ``[K, N]`` whose inner
            products they are; None: the estimates are independent.
    """
    total = (values * coefficients).sum(axis=-1)
    down, up = (values - of.low) * coefficients, (of.high - values) * coefficients
    positive = coefficients > 0
    lower, upper = np.where(positive, down, up), np.where(positive, up, down)

    def length(parts: Floats) -> Floats:
        return np.asarray(
            np.sqrt(((parts if shared is None else parts @ shared) ** 2).sum(axis=-1))
        )

    return Interval(total - length(lower), total + length(upper))


def difference_of_rates(values: list[Floats], groups: list[Integers] | None = None) -> Interval:
    """Compute the interval of the mean over K classes of the means of values in [-1, 1]: ``[...]``.

    The values are paired differences: how much more one side has right of an image. Their positive
    parts are one rate and their negative parts another, so that an interval is not of length 0
    where all examples of a sample are equal (compare Newcombe 1998, method 10, for a table of two
    by two).

    Args:
        values: for each class ``[..., n]``.
        groups: for each class numbers of the images' groups, ``[n]``; None: they are independent.
    """
    sides, effects = [], []
    for sign in (1, -1):
        parts = [np.maximum(sign * one, 0) for one in values]
        each = [rates(one) for one in parts]
        stacked = Rates(*(np.stack(field, axis=-1) for field in zip(*each, strict=True)))
        if groups is not None:
            effects.append(_effects(parts, groups))
            stacked = grouped(stacked, effects[-1])
        variance = stacked.variance.sum(axis=-1) / len(values) ** 2
        sides.append((stacked.mean, variance, mean_rate(stacked, variance, BETWEEN)))
    (won, won_variance, gain), (lost, lost_variance, loss) = sides
    sizes = np.array([one.shape[-1] for one in values])
    # A value is positive or negative, never both.
    each_covariance = -(won * lost / sizes)
    if effects:  # the correlation is that of independent examples
        each_covariance = each_covariance * np.sqrt(effects[0] * effects[1])
    covariance = each_covariance.sum(axis=-1) / len(values) ** 2
    scale = np.sqrt(won_variance * lost_variance)
    together = np.zeros_like(scale)
    np.divide(covariance, scale, out=together, where=scale > 0)
    together = np.maximum(together, -1)
    w, q = won.mean(axis=-1), lost.mean(axis=-1)

    def distance(one: Floats, other: Floats) -> Floats:
        return np.asarray(np.sqrt(one**2 + other**2 - 2 * together * one * other))

    down, up = distance(w - gain.low, loss.high - q), distance(gain.high - w, q - loss.low)
    return Interval(np.maximum(w - q - down, -1.0), np.minimum(w - q + up, 1.0))


def _effects(values: list[Floats], groups: list[Integers]) -> Floats:
    """Compute the design effects of the means of K classes: ``[..., K]``."""
    centred = [one - one.mean(axis=-1, keepdims=True) for one in values]
    labels = np.repeat(np.arange(len(values)), [len(one) for one in groups])
    return clusters.of_classes(np.concatenate(centred, axis=-1), labels, np.concatenate(groups))
