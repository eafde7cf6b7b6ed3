"""Pairs of classes that the features of their images do not tell apart.

If a class is a part of another one under a second name, no features tell the two apart: their
out-of-fold AUROC is 0.5, or some more if the part was of another archive. A pair is *doubtful*
where the upper end of the 95 % interval is below `CHANCE`, so that few images alone raise no doubt,
and where the features are known to be good enough: they tell the two from the other classes, with a
median AUROC of at least `GOOD`. A data set of two classes has no others; there only the features of
a trained network are trusted.

`CHANCE` was set with the skin-cancer images in view, whose copied class has 0.56 to 0.69: a doubt
is a question to whoever can look at the images, not a proof.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data.audit.areas import Area, area

CHANCE = 0.75  # two classes that are merely similar have more
GOOD = 0.8
LEAST = 20  # independent images of a class, with which it is compared
_MOST = 5_000  # pairs that are compared; those beyond are the least alike


class Pair(NamedTuple):
    """Two classes, and how well they are told apart."""

    classes: tuple[int, int]
    area: Area
    others: float  # the median AUROC of telling either from the other classes; NaN: there are none

    def alike(self) -> bool:
        """Return whether the features do not tell the two apart."""
        return self.area.high < CHANCE

    def doubtful(self, trained: bool) -> bool:
        """Return whether they should; `trained`: they are of a trained network."""
        return self.alike() and (trained if np.isnan(self.others) else self.others >= GOOD)


def compare(
    logs: npt.NDArray[np.float64],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
) -> tuple[Pair, ...]:
    """Compare the classes two by two, by their out-of-fold log-odds among the images of the two.

    Args:
        logs: ``[N, K]``, logarithms of out-of-fold probabilities.
        labels: ``[N]``.
        groups: ``[N]``, numbers; images that share one count as one.

    Returns:
        The pairs of classes of at least `LEAST` groups, those that are most alike first.
    """
    areas: dict[tuple[int, int], Area] = {}
    for i, j in _candidates(logs, labels, groups):
        two = np.flatnonzero((labels == i) | (labels == j))
        areas[i, j] = area(logs[two, i] - logs[two, j], labels[two] == i, groups[two])
    of_class: dict[int, dict[int, float]] = {}
    for (i, j), one in areas.items():
        of_class.setdefault(i, {})[j] = one.auroc
        of_class.setdefault(j, {})[i] = one.auroc
    pairs = []
    for (i, j), one in areas.items():
        others = [v for k, v in of_class[i].items() if k != j]
        others += [v for k, v in of_class[j].items() if k != i]
        pairs.append(Pair((i, j), one, float(np.median(others)) if others else float("nan")))
    return tuple(sorted(pairs, key=lambda pair: pair.area.high))


def _candidates(
    logs: npt.NDArray[np.float64],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
) -> list[tuple[int, int]]:
    """List the pairs of classes that have images enough; of very many pairs the most alike."""
    classes = [int(k) for k in np.unique(labels) if len(np.unique(groups[labels == k])) >= LEAST]
    mean = {k: np.exp(logs[labels == k]).mean(axis=0) for k in classes}
    pairs = [(i, j) for at, i in enumerate(classes) for j in classes[at + 1 :]]
    return sorted(pairs, key=lambda p: -float(mean[p[0]][p[1]] + mean[p[1]][p[0]]))[:_MOST]
