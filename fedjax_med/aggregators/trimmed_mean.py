"""The trimmed mean of each coordinate.

Yin et al., ICML 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates".
"""

import math

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Reducer, Senders, State
from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(*, share: float = 0.2) -> Reducer:
    """The mean of each coordinate's values without the largest and the smallest ones.

    Every client that has examples counts once.

    Args:
        share: in [0, 0.5), the share of the n clients that is cut off at each end, rounded down
            to a number of clients; at least the share that may be hostile. 0 is the uniform mean;
            else a round needs 1 / `share` clients; where fewer count, nobody is cut off.

    Raises:
        UserError: `share` is out of range, or cuts off nobody.
    """
    if not 0 <= share < 0.5:
        raise UserError(
            f"expected reducer trimmed_mean to have 0 <= share < 0.5, got share={share}."
        )

    least = math.ceil(1 / share - 1e-9) if share else 1

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        counts = senders.weight > 0
        size, number = counts.shape[0], jnp.sum(counts)
        # By the table, because the product is exact neither here nor in float32: 0.29 * 100 < 29.
        table = [min(math.floor(share * n + 1e-9), max(n - 1, 0) // 2) for n in range(size + 1)]
        cut = jnp.asarray(table)[number]
        position = jnp.arange(size)
        kept = (position >= cut) & (position < number - cut)

        def mean(leaf: Array) -> Array:
            ordered = _robust.ascending(leaf, counts)
            total = jnp.sum(jnp.where(rows(kept, leaf), ordered, 0), axis=0)
            return total / jnp.maximum(number - 2 * cut, 1).astype(leaf.dtype)

        return jax.tree.map(mean, messages), state

    return Reducer(_robust.at_least("trimmed_mean", least, "raise share"), update, least=least)
