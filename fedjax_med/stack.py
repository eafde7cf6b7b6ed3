"""The clients' examples side by side, ``[C, N, ...]``: the last stop in NumPy before the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.types import Examples, Split


def stack(split: Split, parts: Sequence[npt.NDArray[np.int64]]) -> Examples:
    """Stack what each client holds, padded at the end to the size of the largest.

    Args:
        split: The examples to choose from.
        parts: ``C`` arrays of positions in `split`, one per client; empty ones are allowed.

    Returns:
        NumPy arrays: image uint8 ``[C, N, H, W, ch]``, label int32 ``[C, N]``, mask bool
        ``[C, N]``; ``N`` is the size of the largest part, at least 1. Padding is zeros.

    Raises:
        IndexError: A position is not in `split`.
    """
    lead = (len(parts), max([1, *(len(part) for part in parts)]))
    image: Any = np.zeros(lead + split.image.shape[1:], np.uint8)
    label: Any = np.zeros(lead, np.int32)
    mask: Any = np.zeros(lead, np.bool_)
    for client, part in enumerate(parts):
        size = len(part)
        label[client, :size] = split.label[part]  # also finds positions that do not exist
        mask[client, :size] = True
        # NumPy writes straight into `out` only in another mode than "raise".
        np.take(split.image, part, axis=0, out=image[client, :size], mode="wrap")
    return Examples(image, label, mask)


def fill_clients(examples: Examples, rows: int) -> Examples:
    """`examples` ``[C, N]`` with empty clients at the end, so that there are `rows`."""
    missing = rows - examples.label.shape[0]
    if not missing:
        return examples
    return Examples(
        *(np.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)) for leaf in examples)  # type: ignore[arg-type]
    )


def class_counts(examples: Examples, num_classes: int) -> npt.NDArray[np.int64]:
    """How many real examples of each class each client has.

    Args:
        examples: Stacked, ``[C, N]``.
        num_classes: ``K``.

    Returns:
        ``[C, K]``.
    """
    mask = np.asarray(examples.mask)
    client = np.nonzero(mask)[0]
    flat = client * num_classes + np.asarray(examples.label)[mask]
    counts = np.bincount(flat, minlength=mask.shape[0] * num_classes)
    return counts.reshape(mask.shape[0], num_classes).astype(np.int64)
