"""Estimates: figures with their 95 % intervals, and how much each example moves them.

The examples are taken as drawn class by class, with as many of each class as there are. Intervals
cover the sampling of test images only; how far trainings differ is another question, which several
seeds answer. Where `groups` are given, ``[N]``, images of one number are of one lesion or patient,
and are drawn together (`fedjax_med.evaluation.clusters`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation import clusters, intervals, placements
from fedjax_med.evaluation.intervals import Interval, Rates
from fedjax_med.evaluation.placements import Areas

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LEAST = 5  # a class of fewer examples has no interval of its own
_Z = 1.959964  # of the normal distribution, 95 %
_NONE = np.array(np.nan), np.array(np.nan)


class Estimate(NamedTuple):
    """A figure of N examples; NaN where it is undefined.

    Attributes:
        value: the figure.
        interval: its 95 % interval.
        influence: ``[N]``, by how much each example moves it from what is expected.
    """

    value: float
    interval: Interval
    influence: Floats


class Counts(NamedTuple):
    """The confusion matrix by classes, each ``[K]``: true, predicted, and both."""

    support: Floats
    predicted: Floats
    hits: Floats


def count(guess: Integers, labels: Integers, classes: int) -> Counts:
    """Count the examples of each class: ``guess`` and ``labels`` are ``[N]``."""
    one = np.bincount(labels, minlength=classes), np.bincount(guess, minlength=classes)
    hits = np.bincount(labels[guess == labels], minlength=classes)
    return Counts(*(np.asarray(each, np.float64) for each in (*one, hits)))


def _within(influence: Floats, labels: Integers, groups: Integers | None = None) -> Floats:
    """Subtract the classes' means from ``[..., N]``: their squares then sum to the variance.

    The examples of the result are in the order of their classes; with `groups` it has the sums
    over these, ``[..., G]``.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sizes = np.diff(starts, append=len(labels))
    ordered = np.take(influence, order, axis=-1)
    means = np.add.reduceat(ordered, starts, axis=-1) / sizes
    ordered -= np.repeat(means, sizes, axis=-1)
    # Of a single example of a class nothing is known.
    if groups is None:
        ordered *= np.repeat(np.sqrt(sizes / np.maximum(sizes - 1, 1)), sizes)
        return ordered
    pairs = np.unique(np.stack([labels, groups]), axis=1)[0]
    number = np.unique(pairs, return_counts=True)[1]  # of each class's groups
    ordered *= np.repeat(np.sqrt(number / np.maximum(number - 1, 1)), sizes)
    return np.asarray(clusters.sums(ordered, groups[order]))


def _correlations(inside: Floats, labels: Integers) -> Floats:
    """Return rows of unit length ``[K, N + K]`` whose inner products are the correlations.

    `inside` is from `_within`; it has a column for each of N examples or groups.

    They are those of samples with one more example a class, in which nothing is shared: figures
    that are equal in a sample may still differ.
    """
    size = inside.shape[1] / len(np.unique(labels))
    norm = np.linalg.norm(inside, axis=1)
    known = norm > 0
    unit = inside * (np.sqrt(size / (size + 1)) / np.where(known, norm, 1.0))[:, None]
    own = np.where(known, np.sqrt(1 / (size + 1)), 1.0)
    return np.concatenate([unit, np.diag(own)], axis=1)


def accuracy(probabilities: Floats, labels: Integers, groups: Integers | None = None) -> Estimate:
    """Estimate the share of examples whose top class is right."""
    right = probabilities.argmax(axis=1) == labels
    mean, size = right.mean(), len(right)
    influence = (right - mean) / size
    counted = size if groups is None else size / clusters.design_effect(right - mean, groups)
    return Estimate(float(mean), intervals.proportion(mean, counted), influence)


def balanced_accuracy(
    probabilities: Floats, labels: Integers, groups: Integers | None = None
) -> Estimate:
    """Estimate the mean sensitivity of the classes that have examples."""
    right = probabilities.argmax(axis=1) == labels
    support = np.bincount(labels)
    hits = np.bincount(labels[right], minlength=len(support))
    present = support > 0
    recall = hits / np.maximum(support, 1)
    number = present.sum()
    influence = (right - recall[labels]) / (number * support[labels])
    of = Rates(recall[present], support[present].astype(np.float64))
    if groups is not None:
        of = intervals.grouped(of, clusters.of_classes(right - recall[labels], labels, groups))
    interval = intervals.mean_rate(of, of.variance.sum() / number**2)
    return Estimate(float(of.mean.mean()), interval, influence)


def macro_f1(probabilities: Floats, labels: Integers, groups: Integers | None = None) -> Estimate:
    """Estimate the mean F1 of the classes that have examples, by its linearisation."""
    guess = probabilities.argmax(axis=1)
    support, predicted, hits = count(guess, labels, probabilities.shape[1])
    present = support > 0
    both, number = support + predicted, present.sum()
    f1 = np.where(present, 2 * hits / np.maximum(both, 1), 0.0)
    slope = np.where(present, f1 / np.maximum(both, 1), 0.0)
    gain = 2.0 * (guess == labels) / both[labels]
    influence = (gain - slope[labels] - slope[guess]) / number
    value = f1.sum() / number
    counted = support[present]
    if groups is not None:  # as if all images of a group were alike
        counted = counted / clusters.of_classes(np.zeros(len(labels)), labels, groups)
    # One more example of each class, which is wrong as often as others are.
    more = value * (1 - value) / (number * counted) ** 2
    variance = (_within(influence, labels, groups) ** 2).sum() + more.sum()
    most = 1 / (1 / counted).sum() * number**2  # if all are right
    size = value * (1 - value) / variance if variance > 0 else most
    return Estimate(float(value), intervals.proportion(value, size), influence)


def of_areas(areas: Areas) -> Interval:
    """Compute the interval of each class's area under the ROC curve: ``[K]``."""
    return intervals.proportion(areas.area, areas.size, intervals.BETWEEN)


def macro_auroc(
    probabilities: Floats,
    labels: Integers,
    areas: Areas | None = None,
    groups: Integers | None = None,
) -> Estimate:
    """Estimate the mean area under the ROC curves of the classes that have examples."""
    areas = placements.areas(probabilities, labels, groups) if areas is None else areas
    known = np.isfinite(areas.area)
    if not known.any():
        return Estimate(np.nan, Interval(*_NONE), np.zeros(len(labels)))
    area, number = areas.area[known], known.sum()
    each, inside = of_areas(areas), _within(areas.influence[known], labels, groups)
    each = Interval(each.low[known], each.high[known])
    shared = _correlations(inside, labels)
    own = intervals.composed(area, each, np.full(number, 1 / number), shared)
    interval = intervals.wider(own, np.asarray(area.mean()), (inside.mean(axis=0) ** 2).sum())
    return Estimate(float(area.mean()), interval, areas.influence[known].mean(axis=0))


def calibration_gaps(
    probabilities: Floats, labels: Integers, num_bins: int, groups: Integers | None = None
) -> Estimate:
    """Estimate the expected calibration error in bins of equal width.

    Its interval is wide where there are few examples: noise alone makes the error of a bin
    positive. The lower limit subtracts the most that noise can add, that of a model which is
    calibrated in every bin; so it is 0 unless more examples prove otherwise.
    """
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    total = np.bincount(bins, gap, num_bins)
    occupied = np.bincount(bins, minlength=num_bins) > 0
    value = np.abs(total).sum() / len(gap)
    influence = np.sign(total)[bins] * gap / len(gap)
    if groups is None:
        squares = np.bincount(bins, gap**2, num_bins) + occupied  # one more example is quite wrong
        deviation = np.sqrt(squares) / len(gap)
        half = _Z * np.sqrt((deviation**2).sum())
    else:
        deviation, half = _grouped_gaps(gap, bins, influence, groups, num_bins)
    noise = np.sqrt(2 / np.pi) * deviation.sum()
    interval = Interval(*np.clip([value - noise - half, value + half], 0.0, 1.0))
    return Estimate(float(value), interval, influence)


def _grouped_gaps(
    gap: Floats, bins: Integers, influence: Floats, groups: Integers, num_bins: int
) -> tuple[Floats, float]:
    """Return the deviations of the bins' gaps ``[num_bins]``, and half an interval's length."""
    sizes = clusters.sums(np.ones(len(gap)), groups)
    one_more = (sizes**2).sum() / len(gap)  # a group that is quite wrong, of the mean squared size
    cell = np.unique(groups * num_bins + bins, return_inverse=True)[1]
    of_cell = np.zeros(cell.max() + 1, np.int64)
    of_cell[cell] = bins
    squares = np.bincount(of_cell, clusters.sums(gap, cell) ** 2, num_bins)
    squares += np.where(np.bincount(bins, minlength=num_bins) > 0, one_more**2, 0.0)
    deviation = np.sqrt(squares) / len(gap)
    together = (clusters.sums(influence, groups) ** 2).sum()
    return deviation, _Z * float(np.sqrt(max((deviation**2).sum(), together)))


def mean(values: Floats, most: float, groups: Integers | None = None) -> Estimate:
    """Estimate the mean of what each example costs: ``[N]``, from 0 to `most`.

    By what they exceed the least of them is taken for a rate: where all are equal, a rare failure
    may yet be missing, which costs `most`.
    """
    least = float(values.min())
    room = max(most - least, 1e-9)
    of = intervals.rates((values - least) / room)
    if groups is not None:
        of = intervals.grouped(of, clusters.design_effect((values - values.mean()) / room, groups))
    limits = (least + room * limit for limit in intervals.proportion(of.mean, of.size))
    return Estimate(float(values.mean()), Interval(*limits), (values - values.mean()) / len(values))


def difference(
    ones: Sequence[Estimate],
    others: Sequence[Estimate],
    labels: Integers,
    groups: Integers | None = None,
) -> Interval:
    """Compute the interval of the mean of `ones` minus the mean of `others`, paired.

    Args:
        ones: estimates from the same examples, none of them undefined.
        others: likewise.
        labels: of the examples, ``[N]``.
        groups: numbers of the examples' groups, ``[N]``; None: they are independent.
    """
    every = [*ones, *others]
    signs = [1 / len(ones)] * len(ones) + [-1 / len(others)] * len(others)
    inside = _within(np.stack([one.influence for one in every]), labels, groups)
    of = Interval(*(np.stack(limits) for limits in zip(*(e.interval for e in every), strict=True)))
    return intervals.composed(
        np.array([one.value for one in every]), of, np.array(signs), _correlations(inside, labels)
    )
