"""Areas under ROC curves with their variances, by placement values (DeLong et al. 1988).

The placement of a positive example is the share of the negatives that score below it; the area is
the mean of the placements. Sorting gives all of them in O(N log N) a class (Sun and Xu 2014).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation import clusters

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Areas(NamedTuple):
    """The one-vs-rest areas of K classes; NaN for a class that no or every example belongs to.

    Attributes:
        area: ``[K]``.
        influence: ``[K, N]``, by how much each example moves the area from what is expected.
        size: ``[K]``, the number of 0s and 1s whose mean would vary as much as the area.
    """

    area: Floats
    influence: Floats
    size: Floats


def _placements(scores: Floats, positive: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return each positive's share of negatives below it, and each negative's of positives.

    Ties count half, as average ranks do.
    """
    order = np.argsort(scores)
    kind, ranked = positive[order], scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    sizes = np.diff(starts, append=len(scores))
    positives = np.add.reduceat(kind, starts, dtype=np.int64)
    shares = []
    for mine, others in ((positive, sizes - positives), (~positive, positives)):
        found = np.empty(len(scores))
        found[order] = np.repeat((np.cumsum(others) - others / 2) / others.sum(), sizes)
        shares.append(found[mine])
    return shares[0], shares[1]


def areas(probabilities: Floats, labels: Integers, groups: Integers | None = None) -> Areas:
    """Compute the one-vs-rest area under the ROC curve of each class.

    Args:
        probabilities: ``[N, K]``.
        labels: ``[N]``.
        groups: numbers of the images' groups, ``[N]``; None: the images are independent.
    """
    examples, classes = probabilities.shape
    area, size = np.full(classes, np.nan), np.full(classes, np.nan)
    influence = np.zeros((classes, examples))
    for k in range(classes):
        positive = labels == k
        if not positive.any() or positive.all():
            continue
        won, lost = _placements(np.ascontiguousarray(probabilities[:, k]), positive)
        area[k] = won.mean()
        influence[k, positive] = (won - won.mean()) / len(won)
        influence[k, ~positive] = (lost.mean() - lost) / len(lost)
        if groups is None:
            size[k] = _size(float(area[k]), won, lost)
        else:
            size[k] = _grouped_size(float(area[k]), won, lost, groups, positive)
    return Areas(area, influence, size)


def _size(area: float, won: Floats, lost: Floats) -> float:
    """Return how many 0s and 1s vary as much as the area: the fewer of two estimates.

    By the placements' own variance, which tells nothing where all are equal; and by that of
    exponential scores with this area (Hanley and McNeil, Radiology 1982), or with its complement.
    """
    sizes = _exponential_sizes(area, len(won), len(lost))
    variance = sum(part.var(ddof=1) / len(part) for part in (won, lost) if len(part) > 1)
    if variance > 0:
        sizes.append(area * (1 - area) / variance)
    return float(min(sizes))


def _exponential_sizes(area: float, m: float, n: float) -> list[float]:
    """Return `_size` by exponential scores of `m` positives and `n` negatives."""
    return [
        m * n / (1 + (m - 1) * (1 - one) / (2 - one) + (n - 1) * one / (1 + one))
        for one in (area, 1 - area)
    ]


def _grouped_size(
    area: float, won: Floats, lost: Floats, groups: Integers, positive: npt.NDArray[np.bool_]
) -> float:
    """Return `_size` of images in groups, by sums over them (Obuchowski, Biometrics 1997).

    Positives and negatives count as fewer by the design effects of their placements. That one group
    has both mostly makes the area vary less, and is left out where it does.
    """
    sides = [(won - won.mean(), groups[positive]), (lost.mean() - lost, groups[~positive])]
    effects = [float(clusters.design_effect(*side)) for side in sides]
    sizes = _exponential_sizes(
        area, *(len(one) / d for (one, _), d in zip(sides, effects, strict=True))
    )
    variance = 0.0
    for (one, _), effect in zip(sides, effects, strict=True):
        variance += float(one.var(ddof=1)) / len(one) * effect if len(one) > 1 else 0.0
    influence = [np.zeros(len(groups)) for _ in sides]
    for one, (values, _), where in zip(influence, sides, (positive, ~positive), strict=True):
        one[where] = values / len(values)
    each = [clusters.sums(one, groups) for one in influence]
    variance += max(2 * float(each[0] @ each[1]), 0.0)
    if variance > 0:
        sizes.append(area * (1 - area) / variance)
    return float(max(min(sizes), 0.0))
