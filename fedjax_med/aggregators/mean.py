"""The mean of the messages (McMahan et al., AISTATS 2017, "FederatedAveraging")."""

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import Reducer, Senders, State
from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import check_name


def build(*, weighting: str = "examples") -> Reducer:
    """The mean over the clients that have examples.

    Args:
        weighting: ``examples`` weighs a client by its number of examples, so that the mean is the
            one over all examples; ``uniform`` weighs every client the same.

    Raises:
        UserError: `weighting` is another name.
    """
    check_name(weighting, ("examples", "uniform"), "the weightings of the mean")

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        weights = senders.weight
        shares = weights if weighting == "examples" else (weights > 0).astype(weights.dtype)
        shares = shares / jnp.maximum(jnp.sum(shares), 1e-12)

        def mean(leaf: Array) -> Array:
            share = rows(shares, leaf).astype(leaf.dtype)
            # A client that does not count must not spoil the mean with a NaN either.
            return jnp.sum(jnp.where(share > 0, leaf * share, 0), axis=0)

        return jax.tree.map(mean, messages), state

    return Reducer(lambda message, num_clients, num_senders: (), update)
