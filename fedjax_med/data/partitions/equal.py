"""Every client holds the same share of every class."""

import numpy as np

from fedjax_med.core.types import Split
from fedjax_med.data.partitions import PARTITION, Groups, Index, deal, generator


def build(split: Split, groups: Groups, num_clients: int, seed: int) -> list[Index]:
    """Deal each class equally: the sizes of a class at two clients differ by at most 1.

    So do the total sizes. Groups of duplicates are dealt first, largest first; only where they
    leave too few single examples to level out may sizes differ by more.
    """
    allowed = np.ones((num_clients, int(split.label.max()) + 1), bool)
    return deal(split, groups, allowed, generator(seed, PARTITION))
