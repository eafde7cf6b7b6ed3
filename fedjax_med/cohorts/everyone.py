"""All clients participate in every round."""

import jax.numpy as jnp

from fedjax_med.core.algorithm import Cohort
from fedjax_med.core.types import Array, Key


def build(num_clients: int) -> Cohort:
    """Build the cohort of all clients, as `fedjax_med.core.round.run_round` uses without one."""

    def choose(key: Key, sizes: Array) -> Array:
        del key, sizes
        return jnp.arange(num_clients, dtype=jnp.int32)

    return choose
