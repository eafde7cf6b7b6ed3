"""Curves of one class against the rest, and the bins of a reliability diagram.

Each function of a class takes its ``scores`` float ``[N]`` and ``positive`` bool ``[N]``, whether
an example is of the class; both kinds must be there.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation.metrics import NUM_BINS, Floats, Integers

Truths = npt.NDArray[np.bool_]


class Counts(NamedTuple):
    """What is called at each distinct score, from the highest to the lowest.

    thresholds: ``[T]``; an example is called if its score is at least this.
    true: ``[T]``, examples of the class that are called.
    false: ``[T]``, others that are called.
    """

    thresholds: Floats
    true: Integers
    false: Integers


class Curve(NamedTuple):
    """Points of a curve, from left to right: ``x`` and ``y``, ``[T]`` each."""

    x: Floats
    y: Floats


class Bin(NamedTuple):
    """The examples of a range of confidence.

    n: how many there are.
    confidence: the mean of their largest probabilities.
    accuracy: the share of them that are predicted right.
    """

    n: int
    confidence: float
    accuracy: float


def counts(scores: npt.NDArray[np.floating], positive: Truths) -> Counts:
    """Count what each distinct score calls; examples of equal scores are called together."""
    order = np.argsort(-scores, kind="stable")
    sorted_ = scores[order].astype(np.float64)
    ends = np.flatnonzero(np.append(np.diff(sorted_) != 0, True))
    true = np.cumsum(positive[order])[ends].astype(np.int64)
    return Counts(sorted_[ends], true, ends + 1 - true)


def roc(scores: npt.NDArray[np.floating], positive: Truths) -> Curve:
    """Compute the ROC curve, from (0, 0) to (1, 1): 1 - specificity, and sensitivity."""
    found = counts(scores, positive)
    false = np.append(0, found.false) / np.sum(~positive)
    return Curve(false, np.append(0, found.true) / np.sum(positive))


def precision_recall(scores: npt.NDArray[np.floating], positive: Truths) -> Curve:
    """Compute the sensitivity (recall) and the positive predictive value (precision)."""
    found = counts(scores, positive)
    return Curve(found.true / np.sum(positive), found.true / (found.true + found.false))


def average_precision(curve: Curve) -> float:
    """Compute the mean precision over the recall, each step at the precision of its end."""
    return float(np.sum(np.diff(curve.x, prepend=0.0) * curve.y))


def net_benefit(
    scores: npt.NDArray[np.floating], positive: Truths, thresholds: npt.ArrayLike
) -> Floats:
    """Compute TP / n - FP / n * pt / (1 - pt) at each threshold pt in (0, 1): ``[T]``.

    False alarms are weighed by the odds of the threshold: who acts from a probability of pt on
    takes (1 - pt) / pt of them for one that is found (Vickers and Elkin 2006, "Decision curve
    analysis: a novel method for evaluating prediction models").
    """
    wanted = np.asarray(thresholds, np.float64)
    called = [np.sort(scores[kind].astype(np.float64)) for kind in (positive, ~positive)]
    true, false = (len(one) - np.searchsorted(one, wanted, side="left") for one in called)
    return np.asarray((true - false * wanted / (1 - wanted)) / len(scores))


def treat_all(positive: Truths, thresholds: npt.ArrayLike) -> Floats:
    """Compute the net benefit of calling every example; that of calling none is 0."""
    return net_benefit(np.ones(len(positive)), positive, thresholds)


def reliability(probabilities: Floats, labels: Integers, *, num_bins: int = NUM_BINS) -> list[Bin]:
    """Divide the examples by confidence, as the expected calibration error does.

    Returns:
        The occupied bins, from the least confidence to the greatest.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    members = [bins == number for number in np.unique(bins)]
    return [
        Bin(int(one.sum()), float(confidence[one].mean()), float(right[one].mean()))
        for one in members
    ]
