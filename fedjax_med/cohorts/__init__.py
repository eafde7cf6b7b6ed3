"""Cohorts, the clients of a round: ``build(num_clients, *, options) -> Cohort``, one file each.

A `fedjax_med.core.algorithm.Cohort` is a pure function ``(key, sizes int [C]) -> int32 [S]``: the
indices of S different clients. Every ``build`` raises `UserError` if an option is out of range.
"""

from fedjax_med.errors import UserError


def check_size(name: str, size: int, num_clients: int) -> None:
    """Refuse a cohort that is empty or larger than the federation."""
    if not 1 <= size <= num_clients:
        raise UserError(
            f"expected cohort {name} to have 1 <= size <= {num_clients} clients, got {size}: set "
            "--config.cohort.options.size."
        )
