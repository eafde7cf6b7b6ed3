"""Compares runs: mean and spread over seeds, and paired differences on the same test images."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_med.errors import UserError
from fedjax_med.evaluation import bootstrap, metrics, predictions
from fedjax_med.evaluation.metrics import Floats
from fedjax_med.evaluation.predictions import Predictions

NUM_RESAMPLES = 1000
# The predictions of one seed that count as one result: those of one run, or of all hospitals that
# trained alone, whose scores are averaged.
Together = Sequence[Predictions]


class Difference(NamedTuple):
    """How much higher a metric is on one side, with a bootstrap interval."""

    mean: float | None  # over the seeds; None where the metric is undefined
    interval: list[float | None]  # 95 %, over resamples of the test images
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
    parts, names = zip(
        *(predictions.read(folder / predictions.NAME) for folder in folders), strict=True
    )
    if len(set(names)) > 1:
        raise UserError(f"{folders[0]} and the runs beside it are of different classes.")
    image, client, label, probabilities = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((client, image))
    in_order = Predictions(image[order], client[order], label[order], probabilities[order])
    return in_order, names[0]


def scores(together: Together) -> dict[str, float | None]:
    """Compute each of `fedjax_med.evaluation.metrics.HEADLINES`, averaged over `together`.

    None where a metric is undefined, such as the AUROC of a single class.
    """
    return {
        name: metrics.number(
            statistics.fmean(float(metric(_probabilities(one), one.label)) for one in together)
        )
        for name, metric in metrics.HEADLINES.items()
    }


def _probabilities(predictions: Predictions) -> Floats:
    return predictions.probabilities.astype(np.float64)


def difference(
    ones: Sequence[Together],
    others: Sequence[Together],
    metric: Callable[..., Floats],
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compute `metric` of `ones` minus `others` by seed, with a paired bootstrap interval.

    Both sides are computed on the same resamples of the images (drawn class by class, Efron 1979),
    so images that are hard for both do not widen the interval. It covers the sampling of images
    only; `by_seed` shows how far seeds differ.

    Args:
        ones: for each seed, the predictions that count as one result.
        others: likewise, with the same seeds.
        metric: as in `fedjax_med.evaluation.metrics`.
        num_resamples: number of resamples, drawn with `seed`.
        seed: any integer.

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

    def side(of: Sequence[Together], weights: Floats | None) -> Floats:
        """Return the metric of each seed, [seeds, ...]."""
        return np.stack(
            [
                np.mean([metric(_probabilities(one), label, weights) for one in together], axis=0)
                for together in of
            ]
        )

    by_seed = side(ones, None) - side(others, None)
    draws = [
        (side(ones, weights) - side(others, weights)).mean(axis=0)
        for weights in bootstrap.resamples(label, num_resamples, seed)
    ]
    each = [metrics.number(value) for value in by_seed]
    return Difference(metrics.number(by_seed.mean()), bootstrap.interval(draws), each)


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
