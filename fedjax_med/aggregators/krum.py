"""Krum and multi-Krum.

Blanchard et al., NeurIPS 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent".
"""

import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, hostile: int = 1, keep: int = 1) -> Aggregator:
    """Build the mean of the messages that are nearest to their neighbours, each counted once.

    The messages with the smallest sums of squared distances to their n - f - 2 nearest others are
    kept. If fewer than 2f + 3 clients count, the result still consists of clients' messages, but
    there is no guarantee.

    Args:
        hostile: f, the number of clients that may be hostile, at least 0.
        keep: m, the number of messages that are averaged; 1 is Krum, more is multi-Krum, and all
            is the uniform mean.

    Raises:
        UserError: an option is out of range, or fewer than 2f + 3 or m clients send (by ``init``).
    """
    if hostile < 0:
        raise UserError(f"expected aggregator krum to have hostile >= 0, got hostile={hostile}.")
    if keep < 1:
        raise UserError(f"expected aggregator krum to have keep >= 1, got keep={keep}.")

    least = max(2 * hostile + 3, keep)

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.finite_messages(messages, client_info.num_examples)
        distances = _robust.squared_distances(messages)
        ranks = _robust.krum_ranks(distances, client_info.client, counts, hostile)
        kept = counts & (ranks < keep)
        return _robust.weighted_sum(messages, _robust.shares(kept.astype(jnp.float32))), state

    return Aggregator(
        _robust.at_least("krum", least, "lower hostile or keep"),
        update,
        min_clients=least,
        is_robust=True,
    )
