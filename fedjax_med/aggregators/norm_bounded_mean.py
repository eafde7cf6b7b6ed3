"""The mean of messages of bounded norm.

Sun et al., 2019, "Can You Really Backdoor Federated Learning?" (arXiv 1911.07963).
"""

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Reducer, Senders, State
from fedjax_med.core.trees import clip_factor
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, norm: float = 0.0) -> Reducer:
    """The mean, weighted by examples, of the messages scaled down to at most `norm`.

    Against clients that shout: nobody moves the mean by more than `norm` times its share.

    Args:
        norm: the largest l2 norm over all leaves that passes, in the units of the message; 0 is
            the median of the norms of the clients that count, anew in each round.

    Raises:
        UserError: `norm` is negative.
    """
    if not norm >= 0:
        raise UserError(f"expected reducer norm_bounded_mean to have norm >= 0, got norm={norm}.")

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.heard(messages, senders.weight)
        zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), messages)
        norms = jnp.sqrt(_robust.squared_norms(messages, zero))
        bound = norm or _robust.median(norms, counts)
        factors = clip_factor(norms, bound)
        weight = jnp.where(counts, senders.weight, 0)
        return _robust.weighted_sum(messages, _robust.shares(weight) * factors), state

    return Reducer(lambda message, num_clients, num_senders: (), update)
