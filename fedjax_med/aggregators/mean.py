"""The mean of the messages (McMahan et al., AISTATS 2017, "FederatedAveraging")."""

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import check_name


def build(*, weighting: str = "examples") -> Aggregator:
    """Build the mean over the clients that have examples.

    Args:
        weighting: ``examples`` weights a client by its number of examples, so that the mean is
            over all examples; ``uniform`` weights every client equally.

    Raises:
        UserError: `weighting` is something else.
    """
    check_name(weighting, ("examples", "uniform"), "the weightings of the mean")

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        weights = client_info.num_examples
        shares = weights if weighting == "examples" else (weights > 0).astype(weights.dtype)
        shares = shares / jnp.maximum(jnp.sum(shares), 1e-12)

        def mean(leaf: Array) -> Array:
            share = broadcast_rows(shares, leaf).astype(leaf.dtype)
            # A NaN from a client that does not count must not spoil the mean: 0 * NaN is NaN.
            return jnp.sum(jnp.where(share > 0, leaf * share, 0), axis=0)

        return jax.tree.map(mean, messages), state

    return Aggregator(lambda message, num_clients, num_senders: (), update)
