"""Every client holds the same share of every class."""

import numpy as np

from fedjax_med.data.dataset import Split
from fedjax_med.data.partitions import PARTITION, Groups, Index, deal, generator


def build(split: Split, groups: Groups, num_clients: int, seed: int) -> list[Index]:
    """Deal each class evenly: any two clients' sizes of a class differ by at most 1.

    So do their total sizes. Groups of duplicates are dealt first, the largest first; sizes differ
    by more only if too few single examples remain to even them out.
    """
    allowed = np.ones((num_clients, int(split.label.max()) + 1), bool)
    return deal(split, groups, allowed, generator(seed, PARTITION))
