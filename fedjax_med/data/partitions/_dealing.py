"""Deals units (groups of duplicates) to clients: code that the partitions share."""

import bisect
import heapq
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Split
from fedjax_med.errors import UserError

Index = npt.NDArray[np.int64]  # positions in a split, ascending
Groups = npt.NDArray[np.int32]  # [N]; duplicates share a number

# Each purpose draws from its own stream, so that one seed serves all.
PARTITION, HOLD_OUT, FOLDS, TEST = 0, 1, 2, 3
_FEW = 100  # clients
OPTIONS = "--config.partition.options"


def generator(seed: int, *stream: int) -> np.random.Generator:
    """Create the random generator of one purpose (`PARTITION`, `HOLD_OUT`, `FOLDS`, `TEST`)."""
    if seed < 0:
        raise UserError(f"expected seed >= 0, got {seed}: set --config.seed.")
    return np.random.default_rng([seed, *stream])


def shuffled_units(groups: Groups, index: Index, rng: np.random.Generator) -> list[Index]:
    """Return the groups within `index` in random order, independent of their numbers."""
    order = np.argsort(groups[index], kind="stable")
    cuts = np.flatnonzero(np.diff(groups[index][order])) + 1
    units = [unit for unit in np.split(index[order], cuts) if unit.size]
    units.sort(key=lambda unit: int(unit[0]))
    return [units[position] for position in rng.permutation(len(units))]


def parts(units: Sequence[Index], client: Sequence[int], num_clients: int) -> list[Index]:
    """Return the examples of each client, where unit ``i`` belongs to ``client[i]``."""
    dealt: list[list[Index]] = [[np.empty(0, np.int64)] for _ in range(num_clients)]
    for unit, owner in zip(units, client, strict=True):
        dealt[owner].append(unit)
    return [np.sort(np.concatenate(part)) for part in dealt]


def by_owner(owner: npt.NDArray[np.integer], num_clients: int) -> list[Index]:
    """Return each client's positions, ascending, where position ``i`` belongs to ``owner[i]``."""
    order = np.argsort(owner, kind="stable").astype(np.int64)
    return np.split(order, np.cumsum(np.bincount(owner, minlength=num_clients))[:-1])


def deal(
    split: Split, groups: Groups, allowed: npt.NDArray[np.bool_], rng: np.random.Generator
) -> list[Index]:
    """Deal each class evenly over the clients that may hold it (`allowed`: ``[C, K]``).

    Large units go first, so that the single examples even out the differences that they leave.
    Units of one size are dealt class by class: then giving each to the client with the fewest
    examples of the class, and among equals to the smallest, keeps class and total sizes even.
    """
    num_clients, num_classes = allowed.shape
    rank = rng.permutation(num_classes)
    units = shuffled_units(groups, np.arange(groups.size), rng)
    units.sort(key=lambda unit: (-unit.size, rank[split.label[unit[0]]]))
    if num_clients > _FEW:
        client = _deal_to_many(split, units, allowed, rng)
    else:
        client = _deal_to_few(split, units, allowed, rng)
    return parts(units, client, num_clients)


def _holders(split: Split, unit: Index, allowed: npt.NDArray[np.bool_]) -> Index:
    """Return the clients that may hold `unit`."""
    holders = np.flatnonzero(allowed[:, split.label[unit]].all(axis=1))
    if not holders.size:
        what, remedy = "image that is", "leave such images out with --config.policy=drop, or "
        if split.group is not None:
            what, remedy = "group (--config.groups) of", ""
        raise UserError(
            f"no client may hold all labels of the {what} {split.name[unit[0]]} and "
            f"{split.name[unit[-1]]}: {remedy}raise {OPTIONS}.k."
        )
    return holders


def _deal_to_few(
    split: Split, units: list[Index], allowed: npt.NDArray[np.bool_], rng: np.random.Generator
) -> list[int]:
    """Choose the owner of each unit by comparing all clients that may hold it."""
    counts = np.zeros(allowed.shape, np.int64)
    client = []
    for unit in units:
        labels, holders = split.label[unit], _holders(split, unit, allowed)
        load, size = counts[holders][:, labels].sum(axis=1), counts[holders].sum(axis=1)
        owner = int(holders[np.lexsort((rng.permutation(holders.size), size, load))[0]])
        client.append(owner)
        np.add.at(counts[owner], labels, 1)
    return client


def _deal_to_many(
    split: Split, units: list[Index], allowed: npt.NDArray[np.bool_], rng: np.random.Generator
) -> list[int]:
    """Apply the same rule with the holders in a heap, so that time is not units x clients.

    It breaks ties with other random numbers, so few clients still use `_deal_to_few`, whose
    divisions must not change.
    """
    counts = np.zeros(allowed.shape, np.int64)
    client: list[int] = []
    heap: list[tuple[int, int, float, int]] = []
    before: list[int] | None = None
    for unit in units:
        labels = split.label[unit].tolist()
        if labels != before:  # units of one size and class are consecutive
            holders = _holders(split, unit, allowed)
            load, size = counts[holders][:, labels].sum(axis=1), counts[holders].sum(axis=1)
            ties = rng.random(holders.size)
            columns = (load.tolist(), size.tolist(), ties.tolist(), holders.tolist())
            heap, before = list(zip(*columns, strict=True)), labels
            heapq.heapify(heap)
        *_, owner = heap[0]
        client.append(owner)
        np.add.at(counts[owner], labels, 1)
        row = counts[owner]
        key = (int(row[labels].sum()), int(row.sum()), float(rng.random()), owner)
        heapq.heapreplace(heap, key)
    return client


def cut(
    split: Split, units: list[Index], proportions: Callable[[], npt.NDArray[np.float64]]
) -> Index:
    """Cut each class in `proportions`, called once per class; return the client of each unit."""
    client = np.zeros(len(units), np.int64)
    first_label = np.array([split.label[unit[0]] for unit in units])  # a unit may have two labels
    for label in np.unique(first_label):
        members = np.flatnonzero(first_label == label)
        size = np.array([units[member].size for member in members])
        middle = (np.cumsum(size) - size / 2) / size.sum()
        client[members] = np.searchsorted(np.cumsum(proportions())[:-1], middle)
    return client


def repair(units: list[Index], client: Index, num_clients: int, min_examples: int) -> list[Index]:
    """Give clients below `min_examples` units of the largest client; `units` is in random order."""
    size = [unit.size for unit in units]
    total = np.bincount(client, weights=size, minlength=num_clients).astype(np.int64).tolist()
    held = [part.tolist() for part in by_owner(client, num_clients)]
    # Heaps of the smallest and the largest clients; outdated entries are dropped at the top.
    least = [(count, one) for one, count in enumerate(total)]
    most = [(-count, one) for one, count in enumerate(total)]
    heapq.heapify(least)
    heapq.heapify(most)
    while True:
        while least[0][0] != total[least[0][1]]:
            heapq.heappop(least)
        while -most[0][0] != total[most[0][1]]:
            heapq.heappop(most)
        (_, poor), (_, rich) = least[0], most[0]
        if total[poor] >= min_examples:
            return parts(units, client.tolist(), num_clients)
        spare = total[rich] - min_examples
        unit = next((unit for unit in held[rich] if size[unit] <= spare), None)
        if unit is None:
            raise UserError(
                f"{sum(size)} images do not give each of {num_clients} clients {min_examples}: "
                f"lower {OPTIONS}.min_examples or --config.num_clients."
            )
        client[unit] = poor
        held[rich].remove(unit)
        bisect.insort(held[poor], unit)
        total[rich] -= size[unit]
        total[poor] += size[unit]
        for one in (poor, rich):
            heapq.heappush(least, (total[one], one))
            heapq.heappush(most, (-total[one], one))


def check_positive(**options: float) -> None:
    """Refuse an option that is not positive, or too large to compute with (above 1e9)."""
    for name, value in options.items():
        if not 0 < value <= 1e9:
            raise UserError(f"expected 0 < {name} <= 1e9, got {value}: set {OPTIONS}.{name}.")
