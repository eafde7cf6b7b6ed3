"""Bulyan.

El Mhamdi et al., ICML 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium".
"""

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Aggregator, ClientInfo, State
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def _selected(distances: Array, place: Array, counts: Array, hostile: int) -> Array:
    """Select n - 2f messages, each the best by Krum of those remaining: bool [S]."""
    number = jnp.maximum(jnp.sum(counts) - 2 * hostile, 1)

    def choose(turn: Array, left: Array) -> Array:
        best = _robust.krum_ranks(distances, place, left, hostile) == 0
        return left & ~(best & (turn < number))

    size = counts.shape[0]
    left: Array = jax.lax.fori_loop(0, max(size - 2 * hostile, 1), choose, counts)
    return counts & ~left


def _around_median(leaf: Array, chosen: Array, number: Array) -> Array:
    """Average the `number` chosen values nearest to their median: [S, ...] -> [...]."""
    ordered, middle = _robust.ascending(leaf, chosen), _robust.median(leaf, chosen)
    position = broadcast_rows(jnp.arange(leaf.shape[0]), leaf)
    is_value = position < jnp.sum(chosen)
    apart = jnp.where(is_value, jnp.abs(ordered - middle[None]), jnp.inf)
    nearest = jnp.take_along_axis(ordered, jnp.argsort(apart, axis=0), axis=0)
    total = jnp.sum(jnp.where((position < number) & is_value, nearest, 0), axis=0)
    return total / number.astype(leaf.dtype)


def build(*, hostile: int = 1) -> Aggregator:
    """Build the aggregator: Krum selects messages, each coordinate is averaged near its median.

    Krum alone bounds the distance from honest messages, which lets a hostile one be far off in one
    of many coordinates. So Krum selects n - 2f messages, and of each coordinate's n - 2f values
    the n - 4f nearest to their median are averaged. Every client with examples counts once. If
    fewer than 4f + 3 count, the result is a median of at least one message, without guarantee.

    Args:
        hostile: f, the number of clients that may be hostile, at least 0.

    Raises:
        UserError: `hostile` is out of range, or fewer than 4f + 3 clients send (by ``init``).
    """
    if hostile < 0:
        raise UserError(f"expected aggregator bulyan to have hostile >= 0, got hostile={hostile}.")

    least = 4 * hostile + 3

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.finite_messages(messages, client_info.num_examples)
        distances = _robust.squared_distances(messages)
        chosen = _selected(distances, client_info.client, counts, hostile)
        size = jnp.sum(chosen)
        # If too few count, the one or two values in the middle, which gives the median.
        number = jnp.maximum(size - 2 * hostile, 2 - size % 2)
        return jax.tree.map(lambda leaf: _around_median(leaf, chosen, number), messages), state

    return Aggregator(
        _robust.at_least("bulyan", least, "lower hostile"),
        update,
        min_clients=least,
        is_robust=True,
    )
