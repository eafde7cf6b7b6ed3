"""A random sample that prefers clients with many examples (Li et al., MLSys 2020)."""

import jax
import jax.numpy as jnp

from fedjax_med.cohorts import check_size
from fedjax_med.core.round import Cohort
from fedjax_med.core.types import Array, Key


def build(num_clients: int, *, size: int = 2) -> Cohort:
    """`size` different clients, drawn one after the other in proportion to their examples.

    With ``weighting=uniform`` in the mean, size and weight are not counted twice ("Scheme I" of Li
    et al., 2020, "On the Convergence of FedAvg on Non-IID Data", draws with replacement). Clients
    without examples come last.

    Raises:
        UserError: `size` is not between 1 and the number of clients.
    """
    check_size("weighted", size, num_clients)

    def choose(key: Key, sizes: Array) -> Array:
        # The largest of log(weight) + Gumbel noise are such a sample (Gumbel's top-k).
        noise = jax.random.gumbel(key, (num_clients,))
        _, chosen = jax.lax.top_k(jnp.log(sizes.astype(jnp.float32)) + noise, size)
        return jnp.sort(chosen).astype(jnp.int32)

    return choose
