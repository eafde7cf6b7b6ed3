"""The clients' examples side by side, ``[C, N, ...]``: the last stop in NumPy before the device."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from fedjax_med.core.types import Examples, Split

Index = npt.NDArray[np.int64]

_MAX_BUCKETS = 4  # each is compiled by itself
_SIDE_BY_SIDE = 8  # clients that a device should have at once, or it has too little to do
_WORTH = 1.1  # fewer buckets may cost that much more padding


class Held(NamedTuple):
    """Which examples of a split each client holds; pixels are read when they are stacked."""

    split: Split
    parts: tuple[Index, ...]  # C, of positions in `split`

    @property
    def sizes(self) -> npt.NDArray[np.int32]:
        """int32 ``[C]``."""
        return np.array([len(part) for part in self.parts], np.int32)

    @property
    def room(self) -> int:
        """N, the size of the largest client, at least 1."""
        return max([1, *map(len, self.parts)])

    def shapes(self) -> Examples:
        """The shapes and types that all clients stacked would have, ``[C, N]``."""
        lead = (len(self.parts), self.room)
        images = self.split.image
        kinds = ((lead + images.shape[1:], images.dtype), (lead, np.int32), (lead, np.bool_))
        image, label, mask = (jax.ShapeDtypeStruct(shape, kind) for shape, kind in kinds)
        return Examples(image, label, mask)  # type: ignore[arg-type]


def stack(split: Split, parts: Sequence[Index], room: int = 0) -> Examples:
    """Stack what each client holds, padded at the end to the size of the largest or to `room`.

    Args:
        split: The examples to choose from.
        parts: ``C`` arrays of positions in `split`, one per client; empty ones are allowed.
        room: ``N``, if it is more than the largest needs.

    Returns:
        NumPy arrays: image ``[C, N, ...]``, the split's, label int32 ``[C, N]``, mask bool
        ``[C, N]``; ``N`` is the size of the largest part or `room`, at least 1. Padding is zeros.

    Raises:
        IndexError: A position is not in `split`.
    """
    lead = (len(parts), max([1, room, *map(len, parts)]))
    image: Any = np.zeros(lead + split.image.shape[1:], split.image.dtype)
    label: Any = np.zeros(lead, np.int32)
    mask: Any = np.zeros(lead, np.bool_)
    for client, part in enumerate(parts):
        size = len(part)
        label[client, :size] = split.label[part]  # also finds positions that do not exist
        mask[client, :size] = True
        image[client, :size] = np.asarray(split.image[part])
    return Examples(image, label, mask)


def fill_clients(examples: Examples, rows: int) -> Examples:
    """`examples` ``[C, N]`` with empty clients at the end, so that there are `rows`."""
    missing = rows - examples.label.shape[0]
    if not missing:
        return examples
    return Examples(
        *(np.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1)) for leaf in examples)  # type: ignore[arg-type]
    )


def class_counts(held: Held, num_classes: int) -> npt.NDArray[np.int64]:
    """How many examples of each of the `num_classes` classes each client has: ``[C, K]``."""
    client = np.repeat(np.arange(len(held.parts)), held.sizes)
    flat = client * num_classes + held.split.label[np.concatenate([[], *held.parts]).astype(int)]
    counts = np.bincount(flat, minlength=len(held.parts) * num_classes)
    return counts.reshape(len(held.parts), num_classes).astype(np.int64)


def cohort_buckets(
    cohort: npt.NDArray[np.integer],
    sizes: npt.NDArray[np.int32],
    batch_size: int,
    devices: int = 1,
) -> list[tuple[Index, int]]:
    """Group a sampled cohort by size where its clients cost what the largest beside them does.

    Sorted by size, the cohort is cut at its half, at the half of the rest, and so on. Neighbours
    with the same room stay together, so that equal clients are one group, and the rooms are on a
    grid, so that cohorts of unequal ones have few shapes to compile for.

    Args:
        cohort: int ``[S]``, the clients that take part.
        sizes: int ``[C]``, the examples of each client.
        batch_size: 0 is all examples in one batch.
        devices: that the clients of a group are dealt over.

    Returns:
        Up to four groups of clients, each ascending, together the cohort, and N for each.
    """
    order = cohort[np.argsort(sizes[cohort], kind="stable")]
    cuts: list[int] = []
    start = 0
    while len(cuts) < _MAX_BUCKETS - 1 and len(order) - start >= 2 * _SIDE_BY_SIDE * devices:
        start += (len(order) - start) // 2 // devices * devices
        cuts.append(start)
    found: dict[int, list[Index]] = {}
    for group in np.split(order, cuts):
        room = room_on_grid(int(sizes[group].max()), int(sizes.max()), batch_size)
        found.setdefault(room, []).append(group)
    return [(np.sort(np.concatenate(groups)), room) for room, groups in found.items()]


def room_on_grid(needed: int, largest: int, batch_size: int) -> int:
    """N of those who are stacked: `largest`, halved up to three times while they fit.

    So unequal clients have at most four shapes, and equal ones have one. What stays is never less
    than a batch, so that the same batches are summed up whoever takes part.

    Args:
        needed: the size of the largest that is stacked.
        largest: that of the federation's.
        batch_size: 0 is all examples in one batch.
    """
    room = largest
    for _ in range(3):
        half = -(-room // 2)
        if batch_size and half >= max(needed, batch_size):
            room = half
    return room


def buckets(sizes: npt.NDArray[np.int32], batch_size: int, devices: int = 1) -> list[Index]:
    """Group clients of like size, so that little is padded where all of a group cost the same.

    Of all ways to cut the clients, sorted by size, into at most four groups (those that cost the
    same stay together) this has the least padding, or nearly: a group that saves less than a tenth
    is not worth its compilation.

    Args:
        sizes: int ``[C]``, the examples of each client.
        batch_size: examples are computed in batches of it; 0 is all in one.
        devices: that the clients of a group are dealt over, as evenly as they go.

    Returns:
        Up to four arrays of clients, each ascending, together all.
    """
    batch = np.where(sizes > batch_size, max(batch_size, 1), 1)
    cost = np.maximum(-(-sizes // batch) * batch, 1)
    steps, step, count = np.unique(cost, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    # best[k, j]: the least cost of the first j levels in k + 1 groups; cut: where the last begins.
    best = np.full((_MAX_BUCKETS, len(steps) + 1), np.inf)
    cut = np.zeros(best.shape, np.int64)
    best[:, 0] = 0
    for j in range(1, len(steps) + 1):
        members = ends[j - 1] - np.concatenate([[0], ends])[:j]
        last = -(-members // devices) * devices * steps[j - 1]
        best[0, j] = last[0]
        for k in range(1, _MAX_BUCKETS):
            total = best[k - 1, :j] + last
            cut[k, j] = int(total.argmin())
            best[k, j] = total[cut[k, j]]
    number = int(np.argmax(best[:, -1] <= _WORTH * best[:, -1].min()))
    return _groups(step, cut, number)


def _groups(step: npt.NDArray[np.int64], cut: npt.NDArray[np.int64], number: int) -> list[Index]:
    """The clients of each group, from the last cut to the first."""
    end, found = cut.shape[1] - 1, []
    for k in range(number, -1, -1):
        start = int(cut[k, end]) if k else 0
        members = np.flatnonzero((step >= start) & (step < end))
        if len(members):
            found.append(members)
        end = start
    return found[::-1]
