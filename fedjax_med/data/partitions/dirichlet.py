"""Clients differ in their mix of classes (Hsu et al., 2019)."""

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


def check_options(*, alpha: float = 0.3, min_examples: int = 8) -> None:
    """Refuse options that are not positive."""
    check_positive(alpha=alpha, min_examples=min_examples)


def build(
    split: Split,
    groups: Groups,
    num_clients: int,
    seed: int,
    *,
    alpha: float = 0.3,
    min_examples: int = 8,
) -> list[Index]:
    """Cut each class in proportions from a symmetric Dirichlet distribution.

    With small `alpha` clients specialise, with large `alpha` they are alike. The idea is from
    Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated
    Visual Classification"; drawing per class (Yurochkin et al. 2019) deals out every example.
    A client with fewer than `min_examples` examples takes random ones from the largest client.
    """
    check_options(alpha=alpha, min_examples=min_examples)
    rng = generator(seed, PARTITION)
    units = shuffled_units(groups, np.arange(groups.size), rng)
    client = cut(split, units, lambda: rng.dirichlet(np.full(num_clients, alpha)))
    return repair(units, client, num_clients, min_examples)
