"""Percentile bootstrap intervals for metrics (Efron 1979)."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_CHUNK = 2**21  # weights held at a time: bounds the memory for any N


def resamples(labels: Integers, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield how often each example is drawn in each resample, in chunks of resamples: ``[R, N]``.

    Each class is resampled separately: a plain resample would often miss a rare class, and its mean
    over classes would then be over other classes than the estimate's.
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
    """Return the central 95 % interval of the draws, ignoring undefined ones."""
    values = np.concatenate([np.empty(0), *draws])
    defined = values[np.isfinite(values)]
    return np.quantile(defined, [0.025, 0.975]).tolist() if len(defined) else [None, None]
