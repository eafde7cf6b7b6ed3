"""How far a metric could lie from the truth: the percentile bootstrap (Efron 1979)."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CHUNK = 2**21  # weights held at a time: bounds the memory whatever N is


def resamples(labels: Integers, num_resamples: int, seed: int) -> Iterator[Floats]:
    """How often each example is drawn in each resample, some resamples at a time: ``[R, N]``.

    Each class is resampled by itself: a rare one would be missing from many a plain resample, whose
    mean over classes would then be over other classes than the estimate's.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // len(labels))
    members = [np.flatnonzero(labels == k) for k in np.unique(labels)]
    for start in range(0, num_resamples, chunk):
        times = np.zeros((min(chunk, num_resamples - start), len(labels)))
        for one in members:
            times[:, one] = generator.multinomial(len(one), [1 / len(one)] * len(one), len(times))
        yield times


def interval(draws: list[Floats]) -> list[float | None]:
    """The middle 95 % of the draws, leaving out resamples where the metric is undefined."""
    values = np.concatenate([np.empty(0), *draws])
    defined = values[np.isfinite(values)]
    return np.quantile(defined, [0.025, 0.975]).tolist() if len(defined) else [None, None]
