"""Images of one group, such as of a lesion, are no independent examples: what that does to figures.

A mean over n images in groups varies as one over n / d independent images, where d is the design
effect (Rao and Scott, Biometrics 1992): the variance of the sums over groups, over that of the
images. If images of a group are all alike, it is Kish's, the sum of squared sizes over n, which is
the largest. With few groups or few failures it is known badly; so it is computed as if there were
three more groups whose images are all alike: two that vary as the sample does, and one that varies
as much as values in [0, 1] can.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MORE = 2  # further groups that vary as the sample does
_MOST = 0.25  # the largest variance of values in [0, 1], of one further group


def numbered(groups: npt.NDArray[Any]) -> Integers:
    """Number the groups of images from their names ``[N]``; images without one are alone."""
    _, numbers = np.unique(groups, return_inverse=True)
    alone = groups == ""
    numbers[alone] = len(groups) + np.arange(alone.sum())
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def sums(values: npt.NDArray[Any], groups: Integers) -> npt.NDArray[Any]:
    """Sum over the groups: ``[..., N]`` to ``[..., G]``."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.asarray(np.add.reduceat(np.take(values, order, axis=-1), starts, axis=-1))


def design_effect(values: npt.NDArray[Any], groups: Integers) -> Floats:
    """Compute the design effect of a mean: at least 1, ``[...]``.

    Args:
        values: in [0, 1], less their mean, ``[..., n]``.
        groups: numbers of the images' groups, ``[n]``.
    """
    n = values.shape[-1]
    largest = float((sums(np.ones(n), groups) ** 2).sum()) / n  # Kish's
    squares = (values**2).sum(axis=-1)
    together = sums(values, groups)
    count = together.shape[-1]
    if count < 2:
        return np.full(squares.shape, largest)
    more = largest * (_MORE * squares / n + _MOST)
    between = (together**2).sum(axis=-1) * count / (count - 1) + more * largest
    within = squares * n / (n - 1) + more
    return np.asarray(np.maximum(between / within, 1.0))


def of_classes(values: Floats, labels: Integers, groups: Integers) -> Floats:
    """Compute the design effect of each class's mean in the mean over the classes: ``[..., K]``.

    Where a group has images of several classes, such as a patient's, the means of these vary
    together; the effects are larger by what that adds to the variance of their sum.

    Args:
        values: in [0, 1], less the mean of their class, ``[..., N]``.
        labels: ``[N]``, of which each of K classes has an image.
        groups: ``[N]``.
    """
    classes, label = np.unique(labels, return_inverse=True)
    effects = np.stack(
        [design_effect(values[..., label == k], groups[label == k]) for k in range(len(classes))],
        axis=-1,
    )
    cell = np.unique(groups * len(classes) + label, return_inverse=True)[1]
    if cell.max() == np.unique(groups).size - 1:  # each group has one class
        return effects
    weight = 1 / np.bincount(label)[label]
    # As if there were a few more groups here, too, whose images are all alike.
    alike = np.sqrt(_MORE * (values**2).mean(axis=-1, keepdims=True) + _MOST) * weight
    squares = [
        (sums(values * weight, by) ** 2).sum(axis=-1)
        + (sums(alike, by) ** 2).sum(axis=-1) / (groups.max() + 1)
        for by in (groups, cell)
    ]
    across = np.maximum(squares[0] / squares[1], 1.0)
    return np.asarray(effects * across[..., None])
