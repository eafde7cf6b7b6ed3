"""The geometric median.

Pillutla et al., IEEE TSP 2022, "Robust Aggregation for Federated Learning".
"""

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(*, iterations: int = 5, smoothing: float = 1e-6) -> Aggregator:
    """Build the geometric median: the point of least summed distance, weighted by examples.

    RFA: the smoothed Weiszfeld algorithm, with the whole message as one vector. It starts at zero,
    which no client can move; the mean, the other usual start, is far off if one message is.

    Args:
        iterations: at least 1; 3 are enough according to the paper.
        smoothing: above 0, in the units of the message: the distance below which a nearer message
            gets no more weight.

    Raises:
        UserError: an option is out of range.
    """
    if iterations < 1:
        raise UserError(
            f"expected aggregator geometric_median to have iterations >= 1, got {iterations}."
        )
    if not smoothing > 0:
        raise UserError(
            f"expected aggregator geometric_median to have smoothing > 0, got {smoothing}."
        )

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.finite_messages(messages, client_info.num_examples)
        examples = _robust.shares(jnp.where(counts, client_info.num_examples, 0))

        def step(number: Array, point: Message) -> Message:
            del number
            distance = jnp.sqrt(_robust.squared_norms(messages, point))
            pull = examples / jnp.maximum(distance, smoothing)
            return _robust.weighted_sum(messages, _robust.shares(pull))

        start = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), messages)
        return jax.lax.fori_loop(0, iterations, step, start), state

    return Aggregator(lambda message, num_clients, num_senders: (), update, is_robust=True)
