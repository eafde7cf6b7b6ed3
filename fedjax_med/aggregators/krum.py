"""Krum and multi-Krum.

Blanchard et al., NeurIPS 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent".
"""

import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Reducer, Senders, State
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, hostile: int = 1, keep: int = 1) -> Reducer:
    """The mean of the messages that are nearest to their neighbours, each counted once.

    A message is as good as the sum of its squared distances from the n - f - 2 nearest others is
    small. Where fewer clients count than 2f + 3, the result is still one of their messages, but
    nothing is promised.

    Args:
        hostile: f, how many clients may be hostile, at least 0.
        keep: m, how many messages are kept; 1 is Krum, more is multi-Krum, and all is the uniform
            mean.

    Raises:
        UserError: an option is out of range, or fewer than 2f + 3 or m clients send (by ``init``).
    """
    if hostile < 0:
        raise UserError(f"expected reducer krum to have hostile >= 0, got hostile={hostile}.")
    if keep < 1:
        raise UserError(f"expected reducer krum to have keep >= 1, got keep={keep}.")

    least = max(2 * hostile + 3, keep)

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.heard(messages, senders.weight)
        distances = _robust.squared_distances(messages)
        ranks = _robust.krum_ranks(distances, senders.place, counts, hostile)
        kept = counts & (ranks < keep)
        return _robust.weighted_sum(messages, _robust.shares(kept.astype(jnp.float32))), state

    return Reducer(_robust.at_least("krum", least, "lower hostile or keep"), update, least=least)
