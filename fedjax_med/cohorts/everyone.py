"""All clients participate in every round."""

import jax.numpy as jnp

from fedjax_med.cohorts import check_clients
from fedjax_med.core.algorithm import Cohort
from fedjax_med.core.types import Array, Key


def build(num_clients: int) -> Cohort:
    """Build the cohort of all clients, as a `Process` without a cohort has."""

    def choose(key: Key, sizes: Array) -> Array:
        check_clients("everyone", sizes, num_clients)
        del key
        return jnp.arange(num_clients, dtype=jnp.int32)

    return choose
