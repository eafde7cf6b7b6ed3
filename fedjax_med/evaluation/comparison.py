"""Compares runs: mean and spread over seeds, and paired differences on the same test images."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.evaluation import clusters, estimates, intervals, metrics, predictions
from fedjax_med.evaluation.intervals import Interval
from fedjax_med.evaluation.metrics import Floats, Integers
from fedjax_med.evaluation.predictions import GroupedPredictions, Predictions

# The predictions of one seed that count as one result: those of one run, or of all hospitals that
# trained alone, whose scores are averaged.
Together = Sequence[Predictions]


class Difference(NamedTuple):
    """How much higher a metric is on one side, with its interval."""

    mean: float | None  # over the seeds; None where the metric is undefined
    interval: list[float | None]  # 95 %, over the sampling of test images
    by_seed: list[float | None]


def read(folders: Sequence[Path]) -> tuple[Predictions, tuple[str, ...]]:
    """Read the predictions of evaluated runs as one table, sorted by image name and client.

    An image's client may depend on the seed, its name does not: so runs of several seeds align.

    Args:
        folders: workdirs of the folds of a cross-validation, or a single one.

    Returns:
        The predictions and the class names.

    Raises:
        UserError: A run was not evaluated, or the runs' classes differ.
    """
    return read_grouped(folders)[:2]


def read_grouped(folders: Sequence[Path]) -> GroupedPredictions:
    """Read what `read` does, and the groups of the images; None if a run has none.

    Raises:
        UserError: As in `read`.
    """
    parts, names, groups = zip(
        *(predictions.read_grouped(folder / predictions.NAME) for folder in folders), strict=True
    )
    if len(set(names)) > 1:
        raise UserError(f"{folders[0]} and the runs beside it are of different classes.")
    image, client, label, probabilities = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((client, image))
    in_order = Predictions(image[order], client[order], label[order], probabilities[order])
    group = None if any(one is None for one in groups) else np.concatenate(groups)[order]
    return GroupedPredictions(in_order, names[0], group)


def scores(together: Together) -> dict[str, float | None]:
    """Compute each of `fedjax_med.evaluation.metrics.HEADLINES`, averaged over `together`.

    None where a metric is undefined, such as the AUROC of a single class.
    """
    return {name: metrics.number(_score(name, together)) for name in metrics.HEADLINES}


def _probabilities(predictions: Predictions) -> Floats:
    return predictions.probabilities.astype(np.float64)


def difference(
    ones: Sequence[Together],
    others: Sequence[Together],
    metric: str,
    group: npt.NDArray[np.str_] | None = None,
) -> Difference:
    """Compute a metric of `ones` minus `others` by seed, with a paired interval.

    Images that are hard for both sides do not widen the interval. It covers the sampling of images
    only; `by_seed` shows how far seeds differ.

    Args:
        ones: for each seed, the predictions that count as one result.
        others: likewise, with the same seeds.
        metric: one of `fedjax_med.evaluation.metrics.HEADLINES`.
        group: ``[N]``, the names of the images' groups, whose images are drawn together; "" for an
            image that is alone; None: the images are independent.

    Raises:
        UserError: The predictions are not all of the same images.
    """
    every = [one for together in (*ones, *others) for one in together]
    label = every[0].label.astype(np.int64)
    if not all(
        np.array_equal(one.image, every[0].image) and np.array_equal(one.label, label)
        for one in every
    ):
        raise UserError("the runs to compare were evaluated on different images: evaluate again.")
    by_seed = [
        _score(metric, one) - _score(metric, other) for one, other in zip(ones, others, strict=True)
    ]
    limits: list[float | None] = [None, None]
    groups = None if group is None else clusters.numbered(group)
    if np.isfinite(by_seed).all():
        limits = [metrics.number(limit) for limit in _interval(ones, others, metric, label, groups)]
    each = [metrics.number(value) for value in by_seed]
    return Difference(metrics.number(np.mean(by_seed)), limits, each)


def _score(metric: str, together: Together) -> float:
    compute = metrics.HEADLINES[metric]
    return statistics.fmean(
        compute(_probabilities(one), one.label.astype(np.int64)) for one in together
    )


def _interval(
    ones: Sequence[Together],
    others: Sequence[Together],
    metric: str,
    label: Integers,
    groups: Integers | None,
) -> Interval:
    """Compute the interval of the mean difference over the seeds and what they average."""
    if metric in ("accuracy", "balanced_accuracy"):
        more = _share_right(ones) - _share_right(others)
        together = np.zeros_like(label) if metric == "accuracy" else label
        of = [together == k for k in np.unique(together)]
        by_class = None if groups is None else [groups[one] for one in of]
        return intervals.difference_of_rates([more[one] for one in of], by_class)
    left, right = (
        [
            metrics.estimate(metric, _probabilities(one), label, groups=groups)
            for run in side
            for one in run
        ]
        for side in (ones, others)
    )
    return estimates.difference(left, right, label, groups)


def _share_right(of: Sequence[Together]) -> Floats:
    """Return the share of the runs that are right about each image: ``[N]``."""
    right = [one.probabilities.argmax(axis=1) == one.label for run in of for one in run]
    return np.asarray(np.mean(right, axis=0))


def spread(values: Sequence[float | None]) -> str:
    """Format mean ± sample standard deviation to three digits; a dash if a value is undefined."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    mean = f"{statistics.fmean(known):.3f}"
    return f"{mean} ± {statistics.stdev(known):.3f}" if len(known) > 1 else mean


def in_words(found: Difference) -> str:
    """Format a difference with its sign and its interval."""
    low, high = found.interval
    if found.mean is None:
        return "-"
    if low is None or high is None:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({low:+.3f} to {high:+.3f})"
