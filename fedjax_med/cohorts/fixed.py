"""The same few clients in every round."""

import jax.numpy as jnp

from fedjax_med.cohorts import check_clients
from fedjax_med.core.algorithm import Cohort
from fedjax_med.core.types import Array, Key
from fedjax_med.errors import UserError


def build(num_clients: int, *, clients: tuple[int, ...] = (0,)) -> Cohort:
    """Build the cohort of the given clients; the others are used in validation but never train.

    Raises:
        UserError: `clients` has an unknown client or a duplicate, or is empty.
    """
    wrong = [client for client in clients if client not in range(num_clients)]
    if wrong or not clients or len(set(clients)) < len(clients):
        raise UserError(
            f"expected cohort fixed to have different clients among 0 to {num_clients - 1}, got "
            f"{tuple(clients)}: change its option clients."
        )

    def choose(key: Key, sizes: Array) -> Array:
        check_clients("fixed", sizes, num_clients)
        del key
        return jnp.array(sorted(clients), jnp.int32)

    return choose
