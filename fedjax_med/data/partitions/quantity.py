"""Clients differ only in size (Li et al., ICDE 2022)."""

import numpy as np

from fedjax_med.data.dataset import Split
from fedjax_med.data.partitions import (
    PARTITION,
    Groups,
    Index,
    check_positive,
    cut,
    generator,
    repair,
    shuffled_units,
)


def check_options(*, alpha: float = 1.0, min_examples: int = 8) -> None:
    """Refuse options that are not positive."""
    check_positive(alpha=alpha, min_examples=min_examples)


def build(
    split: Split,
    groups: Groups,
    num_clients: int,
    seed: int,
    *,
    alpha: float = 1.0,
    min_examples: int = 8,
) -> list[Index]:
    """Give the clients Dirichlet-distributed sizes and the same mix of classes.

    The quantity skew of Li et al. 2022, "Federated Learning on Non-IID Data Silos"; small `alpha`
    makes sizes differ more. Clients that are too small are filled as in `dirichlet`.
    """
    check_options(alpha=alpha, min_examples=min_examples)
    rng = generator(seed, PARTITION)
    units = shuffled_units(groups, np.arange(groups.size), rng)
    proportions = rng.dirichlet(np.full(num_clients, alpha))
    client = cut(split, units, lambda: proportions)
    return repair(units, client, num_clients, min_examples)
