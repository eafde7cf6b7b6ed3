"""How well scores tell two kinds of images apart: the area under the ROC curve with an interval.

The interval is the simple one of Hanley and McNeil (Radiology 1982), which needs the area and the
two sizes only; tests of models have closer ones (`fedjax_med.evaluation.placements`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_NORMAL = 1.959964  # 97.5 % of a normal distribution lie below


class Area(NamedTuple):
    """An area under the ROC curve (AUROC) with its 95 % interval."""

    auroc: float
    low: float
    high: float
    sizes: tuple[int, int]  # the numbers of independent images of either kind

    def __str__(self) -> str:
        return f"AUROC {self.auroc:.2f}, {self.low:.2f} to {self.high:.2f}"


def area(
    scores: npt.NDArray[np.floating],
    positive: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
) -> Area:
    """Compute the area by which `scores` tell the positives from the others.

    The images of one group count as one in the interval's width, which is on the safe side: a group
    tells at most as much as its images would alone.

    Args:
        scores: ``[N]``; higher ones speak for a positive, and ties count half.
        positive: ``[N]``, of both kinds.
        groups: ``[N]``, numbers.
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1, the mean of ties
    wins, others = int(positive.sum()), int((~positive).sum())
    value = (float(rank[positive].sum()) - wins * (wins + 1) / 2) / (wins * others)
    sizes = (len(np.unique(groups[positive])), len(np.unique(groups[~positive])))
    width = _NORMAL * np.sqrt(_variance(value, *sizes))
    return Area(value, float(max(value - width, 0)), float(min(value + width, 1)), sizes)


def _variance(value: float, m: int, n: int) -> float:
    """Return Hanley and McNeil's variance of an area, with one more image that is told by chance.

    Without it an area of 1 would have no variance.
    """
    fewest = min(m, n)
    a = (value * fewest + 0.5) / (fewest + 1)
    one, two = a / (2 - a), 2 * a * a / (1 + a)
    return (a * (1 - a) + (m - 1) * (one - a * a) + (n - 1) * (two - a * a)) / (m * n)
