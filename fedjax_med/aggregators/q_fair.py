"""q-FedAvg (Li et al., ICLR 2020, "Fair Resource Allocation in Federated Learning")."""

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError

_LEAST = 1e-10  # floor of a loss, as in the authors' code: with q < 1 F^(q-1) divides by it


def build(*, q: float = 1.0, learning_rate: float = 0.1) -> Aggregator:
    """Build an aggregator that weights clients more, the larger their loss F_k of the global model.

    With delta_k = global - local and L = 1 / learning_rate, the message is
    sum_k F_k^q L delta_k / sum_k (q F_k^(q-1) L^2 |delta_k|^2 + L F_k^q):
    a step on sum_k F_k^(q+1) / (q+1), whose length is bounded by its curvature. Every client that
    has examples counts once.

    Args:
        q: at least 0; 0 is the uniform mean, larger values make the clients' losses more equal.
        learning_rate: above 0, of the clients' SGD; larger values mean longer steps if q > 0.

    Raises:
        UserError: an option is out of range.
    """
    if not q >= 0:
        raise UserError(f"expected aggregator q_fair to have q >= 0, got q={q}.")
    if not learning_rate > 0:
        raise UserError(
            f"expected aggregator q_fair to have learning_rate > 0, got {learning_rate}."
        )

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.mask_messages(messages, client_info.num_examples)
        zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), messages)
        square = _robust.squared_norms(messages, zero)
        loss = jnp.maximum(jnp.where(counts, client_info.loss, 0), _LEAST)
        # Both sums are divided by L and the largest F^q, so that no power overflows float32.
        power = jnp.where(counts, (loss / jnp.max(loss)) ** q, 0)
        length = jnp.sum(power * (1 + q / learning_rate * square / loss))
        return _robust.weighted_sum(messages, power / jnp.where(length > 0, length, 1)), state

    return Aggregator(lambda message, num_clients, num_senders: (), update, needs_loss=True)
