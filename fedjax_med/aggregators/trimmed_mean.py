"""The trimmed mean of each coordinate.

Yin et al., ICML 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
"""

import math

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(*, share: float = 0.2) -> Aggregator:
    """Build the mean of each coordinate without its largest and smallest values.

    Every client that has examples counts once.

    Args:
        share: in [0, 0.5), the share of the n clients that is trimmed at each end, rounded down
            to a number of clients; at least the share that may be hostile. 0 is the uniform mean;
            otherwise a round needs 1 / `share` clients: if fewer count, nothing is trimmed.

    Raises:
        UserError: `share` is out of range or, in ``init``, too few clients send to trim any.
    """
    if not 0 <= share < 0.5:
        raise UserError(
            f"expected aggregator trimmed_mean to have 0 <= share < 0.5, got share={share}."
        )

    least = math.ceil(1 / share - 1e-9) if share else 1

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.finite_messages(messages, client_info.num_examples)
        size, number = counts.shape[0], jnp.sum(counts)
        # A table, because the product is exact neither in Python nor in float32: 0.29 * 100 < 29.
        table = [min(math.floor(share * n + 1e-9), max(n - 1, 0) // 2) for n in range(size + 1)]
        cut = jnp.asarray(table)[number]
        position = jnp.arange(size)
        kept = (position >= cut) & (position < number - cut)

        def mean(leaf: Array) -> Array:
            ordered = _robust.ascending(leaf, counts)
            total = jnp.sum(jnp.where(broadcast_rows(kept, leaf), ordered, 0), axis=0)
            return total / jnp.maximum(number - 2 * cut, 1).astype(leaf.dtype)

        return jax.tree.map(mean, messages), state

    return Aggregator(
        _robust.at_least("trimmed_mean", least, "raise share"),
        update,
        min_clients=least,
        is_robust=share > 0,
    )
