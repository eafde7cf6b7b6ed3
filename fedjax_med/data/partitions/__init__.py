"""Partitions of the training examples among clients, one per file.

``build(split, groups, num_clients, seed, *, options) -> parts``: `split` has ``N`` examples,
`groups` ``[N]`` gives duplicates the same number, `seed` seeds the division, and the parts are
``C`` ascending index arrays. A group of duplicates is never separated, so whole groups ("units")
are dealt; most have one example. All raise `UserError` for a bad option.
"""

from fedjax_med.data.partitions._dealing import (
    FOLDS,
    HOLD_OUT,
    OPTIONS,
    PARTITION,
    TEST,
    Groups,
    Index,
    by_owner,
    check_positive,
    cut,
    deal,
    generator,
    repair,
    shuffled_units,
)

__all__ = [
    "FOLDS",
    "HOLD_OUT",
    "OPTIONS",
    "PARTITION",
    "TEST",
    "Groups",
    "Index",
    "by_owner",
    "check_positive",
    "cut",
    "deal",
    "generator",
    "repair",
    "shuffled_units",
]
