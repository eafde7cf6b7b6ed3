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
    """The indices of each client's examples in a split; `stack` reads their images.

    Attributes:
        split: the examples of all clients.
        indices: C arrays of positions in `split`.
        min_capacity: the number of examples for which every stacked client has room, at least.
    """

    split: Split
    indices: tuple[Index, ...]
    min_capacity: int = 0

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """Count the examples of each client: int32 ``[C]``."""
        return np.array([len(part) for part in self.indices], np.int32)

    @property
    def capacity(self) -> int:
        """Return ``N``: the size of the largest client or `min_capacity`, at least 1."""
        return max([1, self.min_capacity, *map(len, self.indices)])

    def shapes(self) -> Examples:
        """Return the shapes and dtypes that all clients would have if stacked, ``[C, N, ...]``."""
        return stacked_shapes(self.split, len(self.indices), self.capacity)


def stacked_shapes(split: Split, rows: int, capacity: int, **options: Any) -> Examples:
    """Return the shapes and dtypes of stacked clients, ``[C, N, ...]`` in every leaf.

    Args:
        split: the clients' examples.
        rows: ``C``.
        capacity: ``N``.
        options: of `jax.ShapeDtypeStruct`.
    """

    def shape(leaf: Any) -> Any:
        dtype = jax.dtypes.canonicalize_dtype(
            leaf.dtype
        )  # as on a device: float64 is float32 there
        return jax.ShapeDtypeStruct((rows, capacity, *leaf.shape[1:]), dtype, **options)

    mask = jax.ShapeDtypeStruct((rows, capacity), np.bool_, **options)
    image, label = jax.tree.map(shape, (split.image, split.label))
    return Examples(image, label, mask)  # type: ignore[arg-type]


def stack(split: Split, parts: Sequence[Index], capacity: int = 0) -> Examples:
    """Stack the clients' examples, padded at the end to the size of the largest or to `capacity`.

    Args:
        split: the examples to choose from.
        parts: ``C`` arrays of positions in `split`, one per client; empty ones are allowed.
        capacity: ``N``, if it exceeds the size of the largest part.

    Returns:
        NumPy arrays: image and label ``[C, N, ...]`` in the split's dtypes, mask bool ``[C, N]``;
        ``N`` is the size of the largest part or `capacity`, at least 1. Padding is zeros.

    Raises:
        IndexError: A position is not in `split`.
    """
    lead = (len(parts), max([1, capacity, *map(len, parts)]))

    def filled(leaf: Any) -> Any:
        rows = np.zeros(lead + leaf.shape[1:], leaf.dtype)
        for client, part in enumerate(parts):
            rows[client, : len(part)] = np.asarray(leaf[part])  # IndexError if out of range
        return rows

    mask: Any = np.arange(lead[1]) < np.array([len(part) for part in parts])[:, None]
    image, label = jax.tree.map(filled, (split.image, split.label))
    return Examples(image, label, mask)


def fill_clients(examples: Examples, rows: int) -> Examples:
    """Append empty clients to `examples` ``[C, N]``, up to `rows` clients."""
    missing = rows - examples.mask.shape[0]
    if not missing:
        return examples
    filled: Examples = jax.tree.map(
        lambda leaf: np.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)), examples
    )
    return filled


def class_counts(clients: ClientData, num_classes: int) -> npt.NDArray[np.int64]:
    """Count each client's examples of each of the `num_classes` classes: int64 ``[C, K]``."""
    owner = np.repeat(np.arange(len(clients.indices)), clients.sizes)
    flat = (
        owner * num_classes
        + clients.split.label[np.concatenate([[], *clients.indices]).astype(int)]
    )
    counts = np.bincount(flat, minlength=len(clients.indices) * num_classes)
    return counts.reshape(len(clients.indices), num_classes).astype(np.int64)
