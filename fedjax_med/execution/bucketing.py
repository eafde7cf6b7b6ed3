"""Buckets of clients of similar size, so that computing them side by side pads little."""

import numpy as np
import numpy.typing as npt

from fedjax_med.data.client_data import Index

_MAX_BUCKETS = 4  # each is compiled separately
_SIDE_BY_SIDE = 8  # minimum clients per device in a bucket: fewer would not keep it busy
_WORTH = 1.1  # factor by which fewer buckets may cost more


def cohort_buckets(
    cohort: npt.NDArray[np.integer],
    sizes: npt.NDArray[np.int32],
    batch_size: int,
    devices: int = 1,
) -> list[tuple[Index, int]]:
    """Group a sampled cohort by size, as each client costs as much as the largest in its bucket.

    Sorted by size, the cohort is cut in half, its larger half again, and so on. Buckets of the same
    capacity are merged, so that clients of equal size are in one bucket, and capacities lie on a
    grid, so that cohorts of unequal clients have few shapes to compile for.

    Args:
        cohort: int ``[S]``, the clients that participate.
        sizes: int ``[C]``, the examples of each client.
        batch_size: 0: all examples in one batch.
        devices: the number of devices over which a bucket's clients are distributed.

    Returns:
        Up to four buckets of clients, each ascending, together the cohort, with N for each.
    """
    order = cohort[np.argsort(sizes[cohort], kind="stable")]
    cuts: list[int] = []
    start = 0
    while len(cuts) < _MAX_BUCKETS - 1 and len(order) - start >= 2 * _SIDE_BY_SIDE * devices:
        start += (len(order) - start) // 2 // devices * devices
        cuts.append(start)
    found: dict[int, list[Index]] = {}
    for group in np.split(order, cuts):
        capacity = capacity_on_grid(int(sizes[group].max()), int(sizes.max()), batch_size)
        found.setdefault(capacity, []).append(group)
    return [(np.sort(np.concatenate(groups)), capacity) for capacity, groups in found.items()]


def capacity_on_grid(needed: int, largest: int, batch_size: int) -> int:
    """Compute N of stacked clients: `largest`, halved up to three times while the clients fit.

    So unequal clients have at most four shapes, and equal ones have one. N is never less than a
    batch, so that the same batches are summed whichever clients participate.

    Args:
        needed: the size of the largest client to stack.
        largest: the size of the federation's largest client.
        batch_size: 0: all examples in one batch.
    """
    capacity = largest
    for _ in range(3):
        half = -(-capacity // 2)
        if batch_size and half >= max(needed, batch_size):
            capacity = half
    return capacity


def buckets(sizes: npt.NDArray[np.int32], batch_size: int, devices: int = 1) -> list[Index]:
    """Group clients by size, as each client costs as much as the largest in its bucket.

    Of all ways to cut the clients, sorted by size, into at most four buckets (clients of equal cost
    stay together) this has the least padding, or nearly: a bucket that saves less than a tenth is
    not worth its compilation.

    Args:
        sizes: int ``[C]``, the examples of each client.
        batch_size: 0: all examples in one batch.
        devices: the number of devices over which a bucket's clients are evenly distributed.

    Returns:
        Up to four arrays of clients, each ascending, together all clients.
    """
    batch = np.where(sizes > batch_size, max(batch_size, 1), 1)
    cost = np.maximum(-(-sizes // batch) * batch, 1)
    steps, step, count = np.unique(cost, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    # best[k, j]: least cost of the first j levels in k + 1 buckets; cut: where the last one begins.
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
    """Collect the clients of each bucket, following the cuts from the last to the first."""
    end, found = cut.shape[1] - 1, []
    for k in range(number, -1, -1):
        start = int(cut[k, end]) if k else 0
        members = np.flatnonzero((step >= start) & (step < end))
        if len(members):
            found.append(members)
        end = start
    return found[::-1]
