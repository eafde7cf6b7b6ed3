"""The shelf of partitions: who holds which training example, one strategy a file.

``build(split, groups, num_clients, seed, *, options) -> parts``: `split` has ``N`` examples,
`groups` ``[N]`` gives duplicates the same number, `seed` decides who gets what, and the parts are
``C`` ascending index arrays. A group of duplicates is never separated, so what is dealt is the
group ("unit"); most have one example. All raise `UserError` for a bad option.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.types import Split

Index = npt.NDArray[np.int64]  # positions in a split, ascending
Groups = npt.NDArray[np.int32]  # [N]; duplicates share a number

# Each purpose draws from its own stream, so that one seed serves both.
PARTITION, HOLD_OUT = 0, 1
OPTIONS = "--config.partition.options"


def generator(seed: int, *stream: int) -> np.random.Generator:
    """The random numbers of one purpose (`PARTITION` or `HOLD_OUT`)."""
    if seed < 0:
        raise UserError(f"expected seed >= 0, got {seed}: set --config.seed.")
    return np.random.default_rng([seed, *stream])


def shuffled_units(groups: Groups, index: Index, rng: np.random.Generator) -> list[Index]:
    """The groups within `index` in random order, which does not depend on how they are numbered."""
    order = np.argsort(groups[index], kind="stable")
    cuts = np.flatnonzero(np.diff(groups[index][order])) + 1
    units = [unit for unit in np.split(index[order], cuts) if unit.size]
    units.sort(key=lambda unit: int(unit[0]))
    return [units[position] for position in rng.permutation(len(units))]


def parts(units: Sequence[Index], client: Sequence[int], num_clients: int) -> list[Index]:
    """The examples of each client, when unit ``i`` belongs to ``client[i]``."""
    dealt: list[list[Index]] = [[np.empty(0, np.int64)] for _ in range(num_clients)]
    for unit, owner in zip(units, client, strict=True):
        dealt[owner].append(unit)
    return [np.sort(np.concatenate(part)) for part in dealt]


def deal(
    split: Split, groups: Groups, allowed: npt.NDArray[np.bool_], rng: np.random.Generator
) -> list[Index]:
    """Deal each class evenly over the clients that may hold it (`allowed`: ``[C, K]``).

    Large units go first, so that the single examples level out what those left uneven. Among
    these, one class is dealt to its end before the next begins: then giving each to the client
    with the fewest of the class, and of those to the smallest, keeps class and total sizes even.
    """
    num_clients, num_classes = allowed.shape
    rank = rng.permutation(num_classes)
    units = shuffled_units(groups, np.arange(groups.size), rng)
    units.sort(key=lambda unit: (-unit.size, rank[split.label[unit[0]]]))
    counts = np.zeros((num_clients, num_classes), np.int64)
    client = []
    for unit in units:
        labels = split.label[unit]
        holders = np.flatnonzero(allowed[:, labels].all(axis=1))
        if not holders.size:
            raise UserError(
                f"no client may hold all labels of the image that is {split.name[unit[0]]} and "
                f"{split.name[unit[-1]]}: clean the data with --config.policy=rarest or drop."
            )
        load, size = counts[holders][:, labels].sum(axis=1), counts[holders].sum(axis=1)
        owner = int(holders[np.lexsort((rng.permutation(holders.size), size, load))[0]])
        client.append(owner)
        np.add.at(counts[owner], labels, 1)
    return parts(units, client, num_clients)


def cut(
    split: Split, units: list[Index], proportions: Callable[[], npt.NDArray[np.float64]]
) -> Index:
    """The client of each unit when each class is cut in `proportions`, asked for per class."""
    client = np.zeros(len(units), np.int64)
    first_label = np.array([split.label[unit[0]] for unit in units])  # a unit may have two
    for label in np.unique(first_label):
        members = np.flatnonzero(first_label == label)
        size = np.array([units[member].size for member in members])
        middle = (np.cumsum(size) - size / 2) / size.sum()
        client[members] = np.searchsorted(np.cumsum(proportions())[:-1], middle)
    return client


def repair(units: list[Index], client: Index, num_clients: int, min_examples: int) -> list[Index]:
    """Let each client below `min_examples` take units (in random order) from the largest."""
    size = np.array([unit.size for unit in units])
    total = np.bincount(client, weights=size, minlength=num_clients).astype(np.int64)
    while total.min() < min_examples:
        poor, rich = int(total.argmin()), int(total.argmax())
        movable = np.flatnonzero((client == rich) & (size <= total[rich] - min_examples))
        if not movable.size:
            raise UserError(
                f"{size.sum()} images do not give each of {num_clients} clients {min_examples}: "
                f"lower {OPTIONS}.min_examples or --config.num_clients."
            )
        client[movable[0]] = poor
        total[rich] -= size[movable[0]]
        total[poor] += size[movable[0]]
    return parts(units, client.tolist(), num_clients)


def check_positive(**options: float) -> None:
    """Refuse an option that is not a positive number of a size that one can compute with."""
    for name, value in options.items():
        if not 0 < value <= 1e9:
            raise UserError(f"expected 0 < {name} <= 1e9, got {value}: set {OPTIONS}.{name}.")
