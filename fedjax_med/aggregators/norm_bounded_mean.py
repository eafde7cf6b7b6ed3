"""The mean of messages with bounded norms.

Sun et al., 2019, "Can You Really Backdoor Federated Learning?" (arXiv 1911.07963).
"""

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.trees import clip_factor
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, norm: float = 0.0) -> Aggregator:
    """Build the mean, weighted by examples, of messages scaled down to at most l2 norm `norm`.

    A defence against oversized messages: no client moves the mean by more than `norm` times its
    share.

    Args:
        norm: the largest l2 norm over all leaves, in the units of the message; 0 means the median
            norm of the clients that count, computed in each round.

    Raises:
        UserError: `norm` is negative.
    """
    if not norm >= 0:
        raise UserError(
            f"expected aggregator norm_bounded_mean to have norm >= 0, got norm={norm}."
        )

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.finite_messages(messages, client_info.num_examples)
        zero = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), messages)
        norms = jnp.sqrt(_robust.squared_norms(messages, zero))
        bound = norm or _robust.median(norms, counts)
        factors = clip_factor(norms, bound)
        weight = jnp.where(counts, client_info.num_examples, 0)
        return _robust.weighted_sum(messages, _robust.shares(weight) * factors), state

    return Aggregator(lambda message, num_clients, num_senders: (), update, is_robust=True)
