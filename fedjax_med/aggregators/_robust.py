"""What the reducers that compare messages share: order statistics, distances, sums of messages.

Who counts is only known in the round, so that sizes such as "the middle one" are traced: a client
that does not count is sorted to the end and left out by its position.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Message
from fedjax_med.errors import UserError


def at_least(name: str, least: int, remedy: str) -> Callable[[Message, int, int], tuple[()]]:
    """The `init` of the reducer `name`, which keeps nothing and needs `least` clients in a round.

    Args:
        name: of the reducer.
        least: with its options.
        remedy: what to do about it.

    Raises:
        UserError: (by ``init``) fewer send.
    """

    def init(message: Message, num_clients: int, num_senders: int) -> tuple[()]:
        if num_senders < least:
            raise UserError(
                f"expected at least {least} clients in a round for reducer {name} with these "
                f"options, got {num_senders}: {remedy}."
            )
        return ()

    return init


def heard(messages: Message, weight: Array) -> tuple[Message, Array]:
    """The messages, zero where they do not count, and who counts.

    Args:
        messages: [S, ...] in every leaf; without a weight it may hold anything.
        weight: float32 [S].

    Returns:
        The messages [S, ...] and bool [S].
    """
    counts = weight > 0
    return jax.tree.map(lambda leaf: jnp.where(rows(counts, leaf), leaf, 0), messages), counts


def shares(values: Array) -> Array:
    """`values` [S], at least 0, divided by their sum; all zero if that is zero."""
    total = jnp.sum(values)
    return values / jnp.where(total > 0, total, 1)


def weighted_sum(messages: Message, factors: Array) -> Message:
    """The sum of the messages [S, ...], each times its factor [S]."""

    def one(leaf: Array) -> Array:
        return jnp.sum(leaf * rows(factors, leaf).astype(leaf.dtype), axis=0)

    return jax.tree.map(one, messages)


def ascending(leaf: Array, counts: Array) -> Array:
    """Each coordinate's values in order, [S, ...], those that do not count infinite at the end."""
    return jnp.sort(jnp.where(rows(counts, leaf), leaf, jnp.inf), axis=0)


def median(leaf: Array, counts: Array) -> Array:
    """Each coordinate's median over those that count, ``[S, ...] -> [...]``; 0 without any."""
    ordered, number = ascending(leaf, counts), jnp.sum(counts)
    # Half of each: the sum of two large values may be beyond the largest number.
    halves = [
        0.5 * jnp.take(ordered, jnp.maximum(middle, 0), axis=0)
        for middle in ((number - 1) // 2, number // 2)
    ]
    return jnp.where(number > 0, halves[0] + halves[1], 0)


def squared_norms(messages: Message, origin: Message) -> Array:
    """Of the l2 distances of the messages [S, ...] from `origin` [...], over all leaves: [S]."""

    def one(leaf: Array, start: Array) -> Array:
        apart = (leaf - start[None]).astype(jnp.float32)
        return jnp.sum(jnp.square(apart), axis=tuple(range(1, leaf.ndim)))

    parts: list[Array] = jax.tree.leaves(jax.tree.map(one, messages, origin))
    return sum(parts[1:], parts[0])


def squared_distances(messages: Message) -> Array:
    """Between each two of the messages [S, ...], over all leaves: float32 [S, S].

    Differences, not inner products, whose rounding would be larger than the distance of two like
    messages; one row after the other, so that no array is larger than the messages.
    """
    table: Array = jax.lax.map(lambda one: squared_norms(messages, one), messages)
    return table


def krum_ranks(distances: Array, place: Array, counts: Array, hostile: int) -> Array:
    """The rank of each message by Krum's score: int [S], 0 is the best.

    The score is the sum of the squared distances from the n - f - 2 nearest of the n that count
    (at least one). The same score: the client that comes first is before the other.

    Args:
        distances: squared, [S, S].
        place: int32 [S], the order of the clients.
        counts: bool [S]; who does not count is ranked behind all that do.
        hostile: f.
    """
    size = distances.shape[0]
    others = counts[:, None] & counts[None] & ~jnp.eye(size, dtype=bool)
    near = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    neighbours = jnp.maximum(jnp.sum(counts) - hostile - 2, 1)
    score = jnp.sum(jnp.where(jnp.arange(size)[None] < neighbours, near, 0), axis=1)
    return jnp.argsort(jnp.lexsort((place, score, ~counts)))
