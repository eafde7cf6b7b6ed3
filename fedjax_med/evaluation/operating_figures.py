"""What an operating point does on test images, and what screening by it would give.

The intervals are of 95 %, and cover the sampling of test images at the threshold as it is. Images
of one group count as fewer (`fedjax_med.evaluation.clusters`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from fedjax_med.evaluation import clusters, intervals
from fedjax_med.evaluation.estimates import LEAST
from fedjax_med.evaluation.intervals import TAIL, Interval, Rates
from fedjax_med.evaluation.operating import Operating

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

FIGURES = ("sensitivity", "specificity", "roc_sensitivity")
PEOPLE = 1000  # of the screening table
_NONE = np.array(np.nan)
_UNKNOWN = Rates(_NONE, _NONE)


class Scored(NamedTuple):
    """Test images as one class sees them.

    Attributes:
        positive: ``[N]``, whether an image is of the class.
        scores: ``[N]``, its probability of the class.
        called: ``[N]``, whether this reaches the threshold; None: there is no threshold.
        groups: ``[N]``, numbers of the images' groups; None: they are independent.
    """

    positive: Booleans
    scores: npt.NDArray[np.floating]
    called: Booleans | None
    groups: Integers | None


def figures(tested: Scored, asked: Operating) -> dict[str, Any]:
    """Compute what the threshold of a class does on test images.

    Returns:
        ``n`` and ``others``, the numbers of images of the class and of other classes;
        ``sensitivity`` and ``specificity`` at the threshold;
        ``roc_sensitivity``, the sensitivity at exactly the wanted specificity on these images, a
        point of their ROC curve whose threshold they have chosen themselves; the ``intervals`` of
        the three (None for fewer than 5 images); and with a prevalence ``screening``. None where a
        figure is undefined.
    """
    mine, rest, called = tested.positive, ~tested.positive, tested.called
    n, others = int(mine.sum()), int(rest.sum())
    sensitivity = specificity = _UNKNOWN
    if called is not None:
        sensitivity = _share(called[mine], _of(tested.groups, mine))
        specificity = _share(~called[rest], _of(tested.groups, rest))
    value, interval = roc_sensitivity(tested, asked.specificity)
    own = {
        "sensitivity": _limits(sensitivity) if n >= LEAST else None,
        "specificity": _limits(specificity) if others >= LEAST else None,
        "roc_sensitivity": interval if min(n, others) >= LEAST else None,
    }
    found: dict[str, Any] = {
        "n": n,
        "others": others,
        "sensitivity": _number(sensitivity.mean),
        "specificity": _number(specificity.mean),
        "roc_sensitivity": _number(value),
        "intervals": {name: _pair(each) for name, each in own.items()},
    }
    if asked.prevalence:
        enough = min(n, others) >= LEAST
        found["screening"] = screening(sensitivity, specificity, asked.prevalence, enough)
    return found


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _pair(limits: Sequence[Any] | None) -> list[float] | None:
    """Return limits as JSON numbers; None where one is undefined."""
    known = limits is not None and bool(np.isfinite(limits).all())
    return [float(limit) for limit in limits] if known and limits is not None else None


def _of(groups: Integers | None, rows: Booleans) -> Integers | None:
    return None if groups is None else groups[rows]


def _share(right: Booleans, groups: Integers | None) -> Rates:
    """Return the share of `right`, and the number of independent images that vary as much."""
    if not len(right):
        return _UNKNOWN
    values = right.astype(np.float64)
    of = Rates(np.asarray(values.mean()), np.asarray(float(len(values))))
    if groups is None:
        return of
    return intervals.grouped(of, clusters.design_effect(values - values.mean(), groups))


def _limits(of: Rates, of_figures: int = 1) -> list[float]:
    """Return the limits of a rate by which so many rates are covered together; NaN of none."""
    if np.isnan(of.size):
        return [np.nan, np.nan]
    return [float(limit) for limit in intervals.proportion(*of, tail=TAIL / of_figures)]


def roc_sensitivity(tested: Scored, specificity: float) -> tuple[float, Interval]:
    """Estimate the sensitivity at exactly this specificity, by the test images' own threshold.

    Both the threshold and the sensitivity at it vary from sample to sample. The threshold lies
    between two of the other classes' scores, whose ranks are binomial quantiles; the sensitivities
    at these, and the exact interval at the threshold itself, are the limits of two independent
    errors, whose distances are added as standard deviations are (Zou and Donner, Statistics in
    Medicine 2008). Nothing is assumed of the distribution of scores.

    Returns:
        The value as in `fedjax_med.evaluation.metrics.sensitivity_at`, and its interval; NaN
        without images of the class or of others.
    """
    positive, groups = tested.positive, tested.groups
    mine, rest = tested.scores[positive], tested.scores[~positive]
    if not len(mine) or not len(rest):
        return np.nan, Interval(_NONE, _NONE)
    scores, count = np.sort(rest), len(rest)
    allowed = int(np.floor((1 - specificity) * count + 1e-9))
    # The least of the others' scores that is not called; none if all may be.
    threshold = scores[count - 1 - allowed] if allowed < count else -np.inf
    size = float(_share(rest > threshold, _of(groups, ~positive)).size)
    low, high = _ranks(count, size, specificity)
    own = _share(mine > threshold, _of(groups, positive))
    least = np.mean(mine > scores[high - 1]) if high <= count else 0.0
    most = np.mean(mine >= scores[low - 1]) if low else 1.0
    exact, value = intervals.proportion(own.mean, own.size), own.mean
    down = np.hypot(value - exact.low, value - least)
    up = np.hypot(exact.high - value, most - value)
    return float(value), Interval(np.maximum(value - down, 0.0), np.minimum(value + up, 1.0))


def _ranks(count: int, size: float, share: float) -> tuple[int, int]:
    """Return the ranks between which the quantile of a `share` lies at 95 %, of `count` scores.

    The number of scores below the quantile is binomial, of `size` trials, at most `count`. A rank
    of 0, or of `count` + 1, is that of no score: the quantile has no limit on this side.
    """
    rank = np.arange(count + 1)
    hits = size * rank / count
    below = np.ones(count + 1)  # the probability of at least so many below it
    below[1:] = special.betainc(hits[1:], size - hits[1:] + 1, share)
    (beyond,) = np.nonzero(below <= TAIL)
    return int(np.flatnonzero(1 - below <= TAIL)[-1]), int(beyond[0]) if beyond.size else count + 1


def screening(
    sensitivity: Rates, specificity: Rates, prevalence: float, with_intervals: bool
) -> dict[str, Any]:
    """Compute what `PEOPLE` people would get on average, of whom a share has the class.

    Args:
        sensitivity: at the threshold.
        specificity: at the threshold.
        prevalence: the share.
        with_intervals: whether there are enough images for intervals.

    Returns:
        ``prevalence`` and ``people``; ``found``, ``missed``, ``false_alarms`` and
        ``rightly_negative``, expected numbers of people; ``ppv`` and ``npv``, the shares of the
        called who have the class and of the others who do not; and ``intervals``. A number depends
        on one rate, and has that rate's interval. The predictive values rise with both rates; their
        limits are those at both rates' limits, each of 97.5 %, so that 95 % of samples are covered
        whatever the rates (Bonferroni).
    """
    ill, well = PEOPLE * prevalence, PEOPLE * (1 - prevalence)

    def numbers(mine: float, rest: float) -> dict[str, float]:
        return {
            "found": ill * mine,
            "missed": ill * (1 - mine),
            "false_alarms": well * (1 - rest),
            "rightly_negative": well * rest,
        }

    def predictive(mine: float, rest: float) -> dict[str, float]:
        of = numbers(mine, rest)
        return {
            "ppv": _ratio(of["found"], of["false_alarms"]),
            "npv": _ratio(of["rightly_negative"], of["missed"]),
        }

    values: dict[str, float] = {}
    limits: dict[str, list[float]] = {}
    for compute, figures_ in ((numbers, 1), (predictive, 2)):
        values |= compute(float(sensitivity.mean), float(specificity.mean))
        both = _limits(sensitivity, figures_), _limits(specificity, figures_)
        low, high = (compute(*one) for one in zip(*both, strict=True))
        limits |= {name: sorted([low[name], high[name]]) for name in low}
    return {
        "prevalence": prevalence,
        "people": PEOPLE,
        **{name: _number(value) for name, value in values.items()},
        "intervals": {
            name: _pair(each) if with_intervals else None for name, each in limits.items()
        },
    }


def _ratio(right: float, wrong: float) -> float:
    """Return the share of `right`; NaN if there is none of either."""
    return right / (right + wrong) if right + wrong > 0 else np.nan
