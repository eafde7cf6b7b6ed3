"""A random sample of clients each round (McMahan et al., AISTATS 2017)."""

import jax
import jax.numpy as jnp

from fedjax_med.cohorts import check_clients, check_size
from fedjax_med.core.algorithm import Cohort
from fedjax_med.core.types import Array, Key


def build(num_clients: int, *, size: int = 2) -> Cohort:
    """Build the cohort of `size` different clients, all sets of them equally likely.

    Raises:
        UserError: `size` is not between 1 and the number of clients.
    """
    check_size("uniform", size, num_clients)

    def choose(key: Key, sizes: Array) -> Array:
        check_clients("uniform", sizes, num_clients)
        return jnp.sort(jax.random.permutation(key, num_clients)[:size]).astype(jnp.int32)

    return choose
