"""Cohorts, the clients of a round: ``build(num_clients, *, options) -> Cohort``, one file each.

A `fedjax_med.core.algorithm.Cohort` is a pure function ``(key, sizes int [C]) -> int32 [S]``: the
indices of S different clients. Every ``build`` raises `UserError` if an option is out of range.
"""

from fedjax_med import lazy
from fedjax_med.core.types import Array
from fedjax_med.errors import UserError

__getattr__ = lazy(__name__, {})


def check_size(name: str, size: int, num_clients: int) -> None:
    """Refuse a cohort that is empty or larger than the federation."""
    if not 1 <= size <= num_clients:
        raise UserError(
            f"expected cohort {name} to have 1 <= size <= {num_clients} clients, got {size}: set "
            "its option size accordingly."
        )


def check_clients(name: str, sizes: Array, num_clients: int) -> None:
    """Refuse a federation of another number of clients than the cohort was built for."""
    if len(sizes) != num_clients:
        raise UserError(
            f"the cohort {name} was built for {num_clients} clients, and there are {len(sizes)}: "
            f"build it with {name}.build({len(sizes)}, ...)."
        )
