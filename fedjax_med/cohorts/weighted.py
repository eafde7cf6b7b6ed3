"""A random sample that prefers clients with many examples (Li et al., MLSys 2020)."""

import jax
import jax.numpy as jnp

from fedjax_med.cohorts import check_clients, check_size
from fedjax_med.core.algorithm import Cohort
from fedjax_med.core.types import Array, Key


def build(num_clients: int, *, size: int = 2) -> Cohort:
    """Build the cohort of `size` clients, drawn in proportion to examples without replacement.

    Use it with ``weighting=uniform`` in the mean, so that sizes do not count twice ("Scheme I" of
    Li et al., 2020, "On the Convergence of FedAvg on Non-IID Data", draws with replacement).
    Clients without examples come last.

    Raises:
        UserError: `size` is not between 1 and the number of clients.
    """
    check_size("weighted", size, num_clients)

    def choose(key: Key, sizes: Array) -> Array:
        check_clients("weighted", sizes, num_clients)
        # The largest values of log(weight) + Gumbel noise are such a sample (Gumbel top-k trick).
        noise = jax.random.gumbel(key, (num_clients,))
        _, chosen = jax.lax.top_k(jnp.log(sizes.astype(jnp.float32)) + noise, size)
        return jnp.sort(chosen).astype(jnp.int32)

    return choose
