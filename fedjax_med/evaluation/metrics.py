"""Metrics of predictions, and their summary with intervals.

Every metric takes ``probabilities`` float ``[N, K]`` and ``labels`` int ``[N]``, and returns a
scalar, or ``[K]`` by class; undefined values are NaN.

A class without examples has no sensitivity and no AUROC. Means over classes ("macro", "balanced")
are over the classes that have examples; `summarize` lists the others as ``absent_classes``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.evaluation import class_intervals, clusters, estimates, intervals, placements
from fedjax_med.evaluation.estimates import Estimate

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
NUM_BINS = 15  # of the expected calibration error


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Return `numerator` / `denominator`, NaN where the denominator is 0."""
    undefined = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator > 0))


def _macro(values: Floats) -> float:
    """Average over the classes, ignoring NaN; NaN where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def accuracy(probabilities: Floats, labels: Integers) -> float:
    """Compute the share of examples whose top class (the first of ties) is right."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def class_rates(probabilities: Floats, labels: Integers) -> dict[str, Floats]:
    """Compute ``sensitivity``, ``specificity``, ``precision``, ``f1`` by class, each ``[K]``.

    NaN where the denominator is 0: sensitivity and F1 of a class without examples,
    specificity of the only class, precision of a class that is never predicted (its F1 is 0).
    """
    guess = probabilities.argmax(axis=1)
    support, predicted, hits = estimates.count(guess, labels, probabilities.shape[1])
    others = len(labels) - support
    return {
        "sensitivity": _ratio(hits, support),
        "specificity": _ratio(others - (predicted - hits), others),
        "precision": _ratio(hits, predicted),
        "f1": np.where(support > 0, _ratio(2 * hits, support + predicted), np.nan),
    }


def balanced_accuracy(probabilities: Floats, labels: Integers) -> float:
    """Average the sensitivity over the classes that have examples."""
    return _macro(class_rates(probabilities, labels)["sensitivity"])


def macro_f1(probabilities: Floats, labels: Integers) -> float:
    """Average F1 over the classes that have examples."""
    return _macro(class_rates(probabilities, labels)["f1"])


def auroc(probabilities: Floats, labels: Integers) -> Floats:
    """Compute the one-vs-rest area under the ROC curve of each class, ``[K]``.

    NaN for a class without examples, and for a class that all examples belong to. Ties count half,
    as average ranks do (Hanley and McNeil 1982).
    """
    return placements.areas(probabilities, labels).area


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


def macro_auroc(probabilities: Floats, labels: Integers) -> float:
    """Average the one-vs-rest AUROC over the classes that have examples."""
    return _macro(auroc(probabilities, labels))


def expected_calibration_error(
    probabilities: Floats, labels: Integers, *, num_bins: int = NUM_BINS
) -> float:
    """Compute the mean gap of confidence and accuracy over equal-width confidence bins.

    Confidence is the largest probability; bin m holds ((m - 1) / num_bins, m / num_bins]
    (Guo et al. 2017, "On Calibration of Modern Neural Networks"). It is biased upwards with few
    examples per bin.
    """
    return estimates.calibration_gaps(probabilities, labels, num_bins).value


def _brier_scores(probabilities: Floats, labels: Integers) -> Floats:
    picked = probabilities[np.arange(len(labels)), labels]
    return np.asarray((probabilities**2).sum(axis=1) - 2 * picked + 1)


def brier(probabilities: Floats, labels: Integers) -> float:
    """Compute the squared error of the probabilities, from 0 (perfect) to 2.

    The original, multi-class definition (Brier 1950): summed over the classes, averaged over the
    examples. For two classes it is twice the score of the "positive" class alone.
    """
    return float(_brier_scores(probabilities, labels).mean())


def _losses(probabilities: Floats, labels: Integers) -> Floats:
    picked = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(picked, np.finfo(np.float64).eps, 1.0)))


def _loss_if_wrong(probabilities: Floats) -> float:
    """Compute the mean loss there would be if no top class were right."""
    rest = (1 - probabilities.max(axis=1)) / max(probabilities.shape[1] - 1, 1)
    return float(-np.log(np.maximum(rest, np.finfo(np.float64).eps)).mean())


def log_loss(probabilities: Floats, labels: Integers) -> float:
    """Compute the mean cross-entropy in nats; a probability of 0 counts as 2.2e-16."""
    return float(_losses(probabilities, labels).mean())


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


HEADLINES: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "macro_auroc": macro_auroc,
    "ece": expected_calibration_error,
    "brier": brier,
    "log_loss": log_loss,
}


def estimate(
    name: str,
    probabilities: Floats,
    labels: Integers,
    num_bins: int = NUM_BINS,
    groups: Integers | None = None,
) -> Estimate:
    """Estimate the headline `name` of `HEADLINES` with its interval."""
    if name == "ece":
        return estimates.calibration_gaps(probabilities, labels, num_bins, groups)
    if name == "brier":
        return estimates.mean(_brier_scores(probabilities, labels), 2.0, groups)
    if name == "log_loss":
        losses = _losses(probabilities, labels)
        most = max(float(losses.max()), _loss_if_wrong(probabilities))
        return estimates.mean(losses, most, groups)
    found: Estimate = getattr(estimates, name)(probabilities, labels, groups=groups)
    return found


def _per_class(
    probabilities: Floats,
    labels: Integers,
    class_names: Sequence[str],
    areas: placements.Areas,
    groups: Integers | None,
) -> dict[str, dict[str, Any]]:
    support = np.bincount(labels, minlength=len(class_names)).astype(np.float64)
    rates = class_rates(probabilities, labels) | {
        "auroc": areas.area,
        "sensitivity_at_90_specificity": sensitivity_at(0.9, probabilities, labels),
    }
    within = class_intervals.of_each(probabilities, labels, areas, rates, groups)
    return {
        name: {"support": int(support[k])}
        | {key: number(v[k]) for key, v in rates.items()}
        | {"intervals": within[k]}
        for k, name in enumerate(class_names)
    }


def summarize(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Sequence[str],
    *,
    num_bins: int = NUM_BINS,
    groups: npt.NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Compute the metrics of predictions for ``evaluation.json``; undefined values are None.

    Args:
        probabilities: float ``[N, K]``, rows sum to 1.
        labels: int ``[N]``.
        class_names: ``K`` names.
        num_bins: bins of the expected calibration error.
        groups: ``[N]``, the names of what images of one lesion or patient share, "" for an image
            that is alone; None: the images are independent. Only intervals heed them.

    Returns:
        ``n``, the headlines (``accuracy`` to ``log_loss``), ``intervals`` (headline to
        ``[low, high]``, 95 %: `fedjax_med.evaluation.estimates`), ``confusion_matrix`` (rows true,
        columns predicted), ``per_class`` (name to ``support``, the rates, ``auroc``,
        ``sensitivity_at_90_specificity``, and ``intervals`` of sensitivity, specificity and auroc,
        None for fewer than 5 examples) and ``absent_classes``, the names without examples.

    Raises:
        UserError: No examples, probabilities that are not finite or do not sum to 1, or labels
            and names that do not fit them.
    """
    p, y = check(probabilities, labels)
    if len(class_names) != p.shape[1]:
        raise UserError(f"expected {p.shape[1]} class names, got {len(class_names)}.")
    of = None if groups is None else clusters.numbered(np.asarray(groups))
    areas = placements.areas(p, y, of)
    others = [name for name in HEADLINES if name != "macro_auroc"]
    found = {name: estimate(name, p, y, num_bins, of) for name in others}
    found["macro_auroc"] = estimates.macro_auroc(p, y, areas, of)
    per_class = _per_class(p, y, class_names, areas, of)
    return {
        "n": len(y),
        **{name: number(found[name].value) for name in HEADLINES},
        "intervals": {name: intervals.limits(found[name].interval) for name in HEADLINES},
        "confusion_matrix": confusion_matrix(p, y).tolist(),
        "per_class": per_class,
        "absent_classes": [name for name, row in per_class.items() if not row["support"]],
    }
