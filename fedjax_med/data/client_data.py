"""Stacks the clients' examples, ``[C, N, ...]``: the last step in NumPy before the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from fedjax_med.core.types import Examples
from fedjax_med.data.dataset import Split

Index = npt.NDArray[np.int64]


class ClientData(NamedTuple):
    """The indices of each client's examples in a split; `stack` reads their images."""

    split: Split
    indices: tuple[Index, ...]  # C arrays of positions in `split`

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Count the examples of each client: int32 ``[C]``."""
        return np.array([len(part) for part in self.indices], np.int32)

    @property
    def capacity(self) -> int:
        """Return ``N``, the number of examples of the largest client, at least 1."""
        return max([1, *map(len, self.indices)])

    def shapes(self) -> Examples:
        """Return the shapes and dtypes that all clients would have if stacked, ``[C, N, ...]``."""
        lead = (len(self.indices), self.capacity)
        images = self.split.image
        kinds = ((lead + images.shape[1:], images.dtype), (lead, np.int32), (lead, np.bool_))
        image, label, mask = (jax.ShapeDtypeStruct(shape, kind) for shape, kind in kinds)
        return Examples(image, label, mask)  # type: ignore[arg-type]


def stack(split: Split, parts: Sequence[Index], capacity: int = 0) -> Examples:
    """Stack the clients' examples, padded at the end to the size of the largest or to `capacity`.

    Args:
        split: the examples to choose from.
        parts: ``C`` arrays of positions in `split`, one per client; empty ones are allowed.
        capacity: ``N``, if it exceeds the size of the largest part.

    Returns:
        NumPy arrays: image ``[C, N, ...]`` in the split's dtype, label int32 ``[C, N]``, mask bool
        ``[C, N]``; ``N`` is the size of the largest part or `capacity`, at least 1. Padding is
        zeros.

    Raises:
        IndexError: A position is not in `split`.
    """
    lead = (len(parts), max([1, capacity, *map(len, parts)]))
    image: Any = np.zeros(lead + split.image.shape[1:], split.image.dtype)
    label: Any = np.zeros(lead, np.int32)
    mask: Any = np.zeros(lead, np.bool_)
    for client, part in enumerate(parts):
        size = len(part)
        label[client, :size] = split.label[part]  # raises IndexError out of range
        mask[client, :size] = True
        image[client, :size] = np.asarray(split.image[part])
    return Examples(image, label, mask)


def fill_clients(examples: Examples, rows: int) -> Examples:
    """Append empty clients to `examples` ``[C, N]``, up to `rows` clients."""
    missing = rows - examples.label.shape[0]
    if not missing:
        return examples
    return Examples(
        *(np.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)) for leaf in examples)  # type: ignore[arg-type]
    )


def class_counts(clients: ClientData, num_classes: int) -> npt.NDArray[np.int64]:
    """Count each client's examples of each of the `num_classes` classes: int64 ``[C, K]``."""
    owner = np.repeat(np.arange(len(clients.indices)), clients.sizes)
    flat = (
        owner * num_classes
        + clients.split.label[np.concatenate([[], *clients.indices]).astype(int)]
    )
    counts = np.bincount(flat, minlength=len(clients.indices) * num_classes)
    return counts.reshape(len(clients.indices), num_classes).astype(np.int64)
