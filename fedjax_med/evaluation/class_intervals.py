"""The intervals of each class's sensitivity, specificity and area under the ROC curve."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation import clusters, estimates, intervals
from fedjax_med.evaluation.estimates import LEAST
from fedjax_med.evaluation.intervals import Interval
from fedjax_med.evaluation.placements import Areas

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def of_each(
    probabilities: Floats,
    labels: Integers,
    areas: Areas,
    rates: dict[str, Floats],
    groups: Integers | None,
) -> list[dict[str, list[float | None] | None]]:
    """List for each class the intervals of its rates that have enough examples.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]``.
        areas: under the ROC curves.
        rates: ``sensitivity`` and ``specificity``, each ``[K]``.
        groups: numbers of the images' groups, ``[N]``; None: the images are independent.
    """
    classes = np.arange(probabilities.shape[1])
    support = np.bincount(labels, minlength=len(classes)).astype(np.float64)
    others = support.sum() - support
    mine, rest = support, others
    if groups is not None:
        belongs = labels[:, None] == classes
        right = (probabilities.argmax(axis=1)[:, None] == classes) == belongs
        mine, rest = (
            size / _design_effects(right, of, groups)
            for size, of in ((support, belongs), (others, ~belongs))
        )
    found = {
        "sensitivity": (intervals.proportion(rates["sensitivity"], mine), support),
        "specificity": (intervals.proportion(rates["specificity"], rest), others),
        "auroc": (estimates.of_areas(areas), np.minimum(support, others)),
    }
    return [
        {
            key: intervals.limits(Interval(each.low[k], each.high[k])) if size[k] >= LEAST else None
            for key, (each, size) in found.items()
        }
        for k in classes
    ]


def _design_effects(right: npt.NDArray[Any], of: npt.NDArray[Any], groups: Integers) -> Floats:
    """Compute the design effect of each column's share that is right, among `of`: ``[K]``."""
    found = np.ones(of.shape[1])
    for k in np.flatnonzero(of.any(axis=0)):
        values = right[of[:, k], k].astype(np.float64)
        found[k] = clusters.design_effect(values - values.mean(), groups[of[:, k]])
    return found
