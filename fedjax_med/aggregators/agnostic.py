"""Minimax client weights (Mohri et al., ICML 2019, "Agnostic Federated Learning").

With several local steps per round, and by exponentiated gradient: Deng et al., NeurIPS 2020,
"Distributionally Robust Federated Averaging".
"""

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, step_size: float = 0.1) -> Aggregator:
    """Build a weighted mean whose weights grow for clients with a large loss of the global model.

    The model descends on sum_k lambda_k F_k while lambda, a point of the simplex, ascends: each
    round lambda_k is multiplied by exp(step_size F_k), and the weights of the clients that count
    are rescaled to their previous sum, so that other clients keep theirs. The message is the mean
    with the lambda before this update; initially all clients have the same weight.

    Args:
        step_size: above 0, for the logarithms of the weights.

    Raises:
        UserError: `step_size` is not positive.
    """
    if not step_size > 0:
        raise UserError(f"expected aggregator agnostic to have step_size > 0, got {step_size}.")

    def init(message: Message, num_clients: int, num_senders: int) -> State:
        return -jnp.log(jnp.full(num_clients, num_clients, jnp.float32))

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.mask_messages(messages, client_info.num_examples)
        before = state[client_info.client]
        hidden = jnp.where(counts, before, -jnp.inf)
        some = jnp.any(counts)
        total = jnp.where(some, jax.nn.logsumexp(hidden), 0)
        risen = hidden + step_size * jnp.where(counts, client_info.loss, 0)
        after = risen - jnp.where(some, jax.nn.logsumexp(risen), 0) + total
        new = state.at[client_info.client].set(jnp.where(counts, after, before))
        return _robust.weighted_sum(messages, jnp.exp(hidden - total)), new

    return Aggregator(init, update, needs_loss=True)
