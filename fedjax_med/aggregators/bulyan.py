"""Bulyan.

El Mhamdi et al., ICML 2018, "The Hidden Vulnerability of Distributed Learning in Byzantium".
"""

import jax
import jax.numpy as jnp

from fedjax_med.aggregators import _robust
from fedjax_med.core.aggregation import Reducer, Senders, State
from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def _selected(distances: Array, place: Array, counts: Array, hostile: int) -> Array:
    """Who is chosen by Krum, n - 2f times, each time among those that are left: bool [S]."""
    number = jnp.maximum(jnp.sum(counts) - 2 * hostile, 1)

    def choose(turn: Array, left: Array) -> Array:
        best = _robust.krum_ranks(distances, place, left, hostile) == 0
        return left & ~(best & (turn < number))

    size = counts.shape[0]
    left: Array = jax.lax.fori_loop(0, max(size - 2 * hostile, 1), choose, counts)
    return counts & ~left


def _around_median(leaf: Array, chosen: Array, number: Array) -> Array:
    """The mean of the `number` values of the chosen nearest to their median: [S, ...] -> [...]."""
    ordered, middle = _robust.ascending(leaf, chosen), _robust.median(leaf, chosen)
    position = rows(jnp.arange(leaf.shape[0]), leaf)
    is_value = position < jnp.sum(chosen)
    apart = jnp.where(is_value, jnp.abs(ordered - middle[None]), jnp.inf)
    nearest = jnp.take_along_axis(ordered, jnp.argsort(apart, axis=0), axis=0)
    total = jnp.sum(jnp.where((position < number) & is_value, nearest, 0), axis=0)
    return total / number.astype(leaf.dtype)


def build(*, hostile: int = 1) -> Reducer:
    """Krum chooses n - 2f messages; then each coordinate is a mean around their median.

    Krum alone bounds the distance from honest messages, which lets a hostile one be far off in one
    of many coordinates. Of the n - 2f values of a coordinate the n - 4f nearest to their median
    are averaged. Every client that has examples counts once; where fewer count than 4f + 3, it is
    the median of at least one, and nothing is promised.

    Args:
        hostile: f, how many clients may be hostile, at least 0.

    Raises:
        UserError: `hostile` is out of range, or fewer than 4f + 3 clients send (by ``init``).
    """
    if hostile < 0:
        raise UserError(f"expected reducer bulyan to have hostile >= 0, got hostile={hostile}.")

    least = 4 * hostile + 3

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        messages, counts = _robust.heard(messages, senders.weight)
        distances = _robust.squared_distances(messages)
        chosen = _selected(distances, senders.place, counts, hostile)
        size = jnp.sum(chosen)
        # Where too few count, the middle one, or both that are in the middle: their median.
        number = jnp.maximum(size - 2 * hostile, 2 - size % 2)
        return jax.tree.map(lambda leaf: _around_median(leaf, chosen, number), messages), state

    return Reducer(_robust.at_least("bulyan", least, "lower hostile"), update, least=least)
