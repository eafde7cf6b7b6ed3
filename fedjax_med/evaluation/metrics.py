"""Metrics of predictions, and summaries with bootstrap intervals.

Every metric takes ``probabilities`` float ``[N, K]`` and ``labels`` int ``[N]``, and
optionally ``weights`` float ``[..., N]``: how often each example counts. The result has the
leading axes of `weights` (a scalar array without weights), so that the same code computes the
point estimate and, with the counts of many resamples as weights, its bootstrap.

A class without examples has no sensitivity and no AUROC. Means over classes ("macro", "balanced")
are over the classes that have examples; `summarize` lists the others as ``absent_classes``.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.evaluation import bootstrap

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Weights = Floats | None


def _sum(values: npt.NDArray[Any], weights: Weights) -> Floats:
    """Sum over the examples, the first axis of `values` ``[N, ...]``: ``[..., ...]``."""
    return np.asarray(values.sum(axis=0) if weights is None else weights @ values)


def _mean(values: npt.NDArray[Any], weights: Weights) -> Floats:
    return np.asarray(_sum(values, weights) / _sum(np.ones(len(values)), weights))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return `numerator` / `denominator`, NaN where the denominator is 0."""
    undefined = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))


def _macro(values: Floats) -> Floats:
    """Average over the last axis (classes), ignoring NaN; NaN where nothing is left."""
    return _ratio(np.nansum(values, axis=-1), np.sum(~np.isnan(values), axis=-1, dtype=np.float64))


def accuracy(probabilities: Floats, labels: Integers, weights: Weights = None) -> Floats:
    """Compute the share of examples whose top class (the first of ties) is right: ``[...]``."""
    return _mean(probabilities.argmax(axis=1) == labels, weights)


def class_rates(
    probabilities: Floats, labels: Integers, weights: Weights = None
) -> dict[str, Floats]:
    """Compute ``sensitivity``, ``specificity``, ``precision``, ``f1`` by class, each ``[..., K]``.

    NaN where the denominator is 0: sensitivity and F1 of a class without examples,
    specificity of the only class, precision of a class that is never predicted (its F1 is 0).
    """
    one_hot = np.eye(probabilities.shape[1])
    true, guess = one_hot[labels], one_hot[probabilities.argmax(axis=1)]
    support, predicted, hits = (_sum(x, weights) for x in (true, guess, true * guess))
    others = support.sum(axis=-1, keepdims=True) - support
    return {
        "sensitivity": _ratio(hits, support),
        "specificity": _ratio(others - (predicted - hits), others),
        "precision": _ratio(hits, predicted),
        "f1": np.where(support > 0, _ratio(2 * hits, support + predicted), np.nan),
    }


def balanced_accuracy(probabilities: Floats, labels: Integers, weights: Weights = None) -> Floats:
    """Average the sensitivity over the classes that have examples: ``[...]``."""
    return _macro(class_rates(probabilities, labels, weights)["sensitivity"])


def macro_f1(probabilities: Floats, labels: Integers, weights: Weights = None) -> Floats:
    """Average F1 over the classes that have examples: ``[...]``."""
    return _macro(class_rates(probabilities, labels, weights)["f1"])


def _auroc(scores: Floats, positive: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Estimate the chance that a positive scores above a negative, ties count half: ``[...]``.

    The Mann-Whitney statistic: each positive beats the negatives that sort below it, and half of
    the negatives that tie with it.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    negatives = np.where(positive, 0.0, weights)[..., order]
    below = np.insert(np.cumsum(negatives, axis=-1), 0, 0.0, axis=-1)
    first = np.searchsorted(ranked, scores[positive], side="left")
    last = np.searchsorted(ranked, scores[positive], side="right")
    beaten = (below[..., first] + below[..., last]) / 2
    positives = weights[..., positive]
    return _ratio((positives * beaten).sum(axis=-1), positives.sum(axis=-1) * below[..., -1])


def auroc(probabilities: Floats, labels: Integers, weights: Weights = None) -> Floats:
    """Compute the one-vs-rest area under the ROC curve of each class, ``[..., K]``.

    NaN for a class without examples, and for a class that all examples belong to. Ties count half,
    as average ranks do (Hanley and McNeil 1982).
    """
    times = np.ones(len(labels)) if weights is None else weights
    classes = range(probabilities.shape[1])
    return np.stack([_auroc(probabilities[:, k], labels == k, times) for k in classes], axis=-1)


def sensitivity_at(
    specificity: float, probabilities: Floats, labels: Integers
) -> npt.NDArray[np.float64]:
    """Return the highest sensitivity of each class at this specificity or above: ``[K]``.

    An example is assigned to the class if its probability reaches a threshold. The best threshold
    is used, so the result is a point of the ROC curve and none has to be chosen. NaN for a class
    without examples, and for a class that all examples belong to.
    """
    found = np.full(probabilities.shape[1], np.nan)
    for k, scores in enumerate(probabilities.T):
        positive = labels == k
        if positive.any() and not positive.all():
            others = np.sort(scores[~positive])[::-1]
            # Negatives that may be assigned to the class, though none that ties with the next one
            allowed = int(np.floor((1 - specificity) * len(others) + 1e-9))
            found[k] = np.mean(scores[positive] > others[allowed]) if allowed < len(others) else 1.0
    return found


def macro_auroc(probabilities: Floats, labels: Integers, weights: Weights = None) -> Floats:
    """Average the one-vs-rest AUROC over the classes that have examples: ``[...]``."""
    return _macro(auroc(probabilities, labels, weights))


def expected_calibration_error(
    probabilities: Floats, labels: Integers, weights: Weights = None, *, num_bins: int = 15
) -> Floats:
    """Compute the mean gap of confidence and accuracy over equal-width confidence bins: ``[...]``.

    Confidence is the largest probability; bin m holds ((m - 1) / num_bins, m / num_bins]
    (Guo et al. 2017, "On Calibration of Modern Neural Networks"). It is biased upwards with few
    examples per bin, and resampling adds to that: a bootstrap interval may lie above the estimate.
    """
    confidence = probabilities.max(axis=1)
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap = ((probabilities.argmax(axis=1) == labels) - confidence)[:, None] * np.eye(num_bins)[bins]
    return np.asarray(np.abs(_sum(gap, weights)).sum(axis=-1) / _sum(np.ones(len(gap)), weights))


def brier(probabilities: Floats, labels: Integers, weights: Weights = None) -> Floats:
    """Compute the squared error of the probabilities: ``[...]``, from 0 (perfect) to 2.

    The original, multi-class definition (Brier 1950): summed over the classes, averaged over the
    examples. For two classes it is twice the score of the "positive" class alone.
    """
    error = probabilities - np.eye(probabilities.shape[1])[labels]
    return _mean((error**2).sum(axis=1), weights)


def log_loss(probabilities: Floats, labels: Integers, weights: Weights = None) -> Floats:
    """Compute the mean cross-entropy in nats: ``[...]``; a probability of 0 counts as 2.2e-16."""
    picked = probabilities[np.arange(len(labels)), labels]
    surprise = -np.log(np.clip(picked, np.finfo(np.float64).eps, 1.0))
    return _mean(surprise, weights)


def confusion_matrix(probabilities: Floats, labels: Integers) -> Integers:
    """Count the examples by class: ``[K, K]``, rows true, columns predicted."""
    num_classes = probabilities.shape[1]
    cell = labels * num_classes + probabilities.argmax(axis=1)
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


def number(value: Any) -> float | None:
    """Convert to a JSON number; JSON has no NaN, so an undefined value becomes None (null)."""
    return float(value) if np.isfinite(value) else None


def check(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, of: str = ""
) -> tuple[Floats, Integers]:
    """Check that metrics can be computed; return both as float64 and int64 arrays."""
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    problem = ""
    if p.ndim != 2 or y.shape != p.shape[:1]:
        problem = f"probabilities [N, K] and labels [N], got {p.shape} and {y.shape}."
    elif not len(y):
        problem = "at least one example to evaluate on, got none: add images."
    elif broken := int(np.sum(~np.isfinite(p).all(axis=1))):
        problem = (
            f"finite probabilities, got NaN or infinity for {broken} of {len(y)} examples: "
            "the model has diverged; train with a smaller learning rate."
        )
    elif y.min() < 0 or y.max() >= p.shape[1]:
        problem = f"labels of the model's {p.shape[1]} classes, got {y.min()} to {y.max()}."
    elif p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 0.02:  # loose enough for bfloat16
        problem = "probabilities that sum to 1, got something else: apply softmax."
    if problem:
        raise UserError(f"{of}expected {problem}")
    return p, y


HEADLINES: dict[str, Callable[..., Floats]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "macro_auroc": macro_auroc,
    "ece": expected_calibration_error,
    "brier": brier,
    "log_loss": log_loss,
}


def _per_class(
    probabilities: Floats, labels: Integers, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    support = np.bincount(labels, minlength=len(class_names))
    rates = class_rates(probabilities, labels) | {
        "auroc": auroc(probabilities, labels),
        "sensitivity_at_90_specificity": sensitivity_at(0.9, probabilities, labels),
    }
    return {
        name: {"support": int(support[k])} | {key: number(v[k]) for key, v in rates.items()}
        for k, name in enumerate(class_names)
    }


def summarize(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Sequence[str],
    *,
    num_bins: int = 15,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute the metrics of predictions for ``evaluation.json``; undefined values are None.

    Args:
        probabilities: float ``[N, K]``, rows sum to 1.
        labels: int ``[N]``.
        class_names: ``K`` names.
        num_bins: bins of the expected calibration error.
        num_resamples: resamples of the bootstrap, drawn from `seed`.
        seed: any integer.

    Returns:
        ``n``, the headlines (``accuracy`` to ``log_loss``), ``intervals`` (headline to
        ``[low, high]``: the 95 % percentile bootstrap over each class's examples, Efron 1979),
        ``confusion_matrix`` (rows true, columns predicted), ``per_class`` (name to ``support``,
        the rates, ``auroc`` and ``sensitivity_at_90_specificity``) and ``absent_classes``, the
        names without examples.

    Raises:
        UserError: No examples, probabilities that are not finite or do not sum to 1, or labels
            and names that do not fit them.
    """
    p, y = check(probabilities, labels)
    if len(class_names) != p.shape[1]:
        raise UserError(f"expected {p.shape[1]} class names, got {len(class_names)}.")
    headlines = HEADLINES | {
        "ece": functools.partial(expected_calibration_error, num_bins=num_bins)
    }
    draws: dict[str, list[Floats]] = {name: [] for name in headlines}
    for weights in bootstrap.resamples(y, num_resamples, seed):
        for name, metric in headlines.items():
            draws[name].append(metric(p, y, weights))
    per_class = _per_class(p, y, class_names)
    return {
        "n": len(y),
        **{name: number(metric(p, y)) for name, metric in headlines.items()},
        "intervals": {name: bootstrap.interval(draws[name]) for name in headlines},
        "confusion_matrix": confusion_matrix(p, y).tolist(),
        "per_class": per_class,
        "absent_classes": [name for name, row in per_class.items() if not row["support"]],
    }
