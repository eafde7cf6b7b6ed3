"""Order statistics, distances and sums of messages, shared by the robust aggregators.

Which clients count is only known inside the round, so indices such as that of the median are
traced: clients that do not count are sorted to the end and excluded by their position.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_med.core.faults import is_finite
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Message
from fedjax_med.errors import UserError


def at_least(name: str, least: int, remedy: str) -> Callable[[Message, int, int], tuple[()]]:
    """Build the `init` of a stateless aggregator that needs `least` clients in a round.

    Args:
        name: the aggregator's name, for the error.
        least: the number of clients that it needs with its options.
        remedy: advice for the error.

    Raises:
        UserError: (by ``init``) fewer clients send a message.
    """

    def init(message: Message, num_clients: int, num_senders: int) -> tuple[()]:
        if num_senders < least:
            raise UserError(
                f"expected at least {least} clients in a round for aggregator {name} with these "
                f"options, got {num_senders}: {remedy}."
            )
        return ()

    return init


def mask_messages(messages: Message, weight: Array) -> tuple[Message, Array]:
    """Set the messages of weight 0 to zero; also return which messages count.

    Args:
        messages: [S, ...] in every leaf; those of weight 0 may hold anything.
        weight: float32 [S].

    Returns:
        The messages [S, ...], and bool [S], whether each counts.
    """
    counts = weight > 0
    return jax.tree.map(
        lambda leaf: jnp.where(broadcast_rows(counts, leaf), leaf, 0), messages
    ), counts


def finite_messages(messages: Message, weight: Array) -> tuple[Message, Array]:
    """Mask the messages as `mask_messages` does, and those with a NaN or an infinity, too.

    A robust aggregator leaves such a message out: in distances and sums, and in an order of
    values, one NaN would decide the result.
    """
    return mask_messages(messages, jnp.where(jax.vmap(is_finite)(messages), weight, 0))


def shares(values: Array) -> Array:
    """Divide `values` [S], at least 0, by their sum; all zero if that is zero."""
    total = jnp.sum(values)
    return values / jnp.where(total > 0, total, 1)


def weighted_sum(messages: Message, factors: Array) -> Message:
    """Sum the messages [S, ...], each times its factor [S]."""

    def one(leaf: Array) -> Array:
        return jnp.sum(leaf * broadcast_rows(factors, leaf).astype(leaf.dtype), axis=0)

    return jax.tree.map(one, messages)


def ascending(leaf: Array, counts: Array) -> Array:
    """Sort each coordinate over the clients, [S, ...]; inf at the end for those not counted."""
    return jnp.sort(jnp.where(broadcast_rows(counts, leaf), leaf, jnp.inf), axis=0)


def median(leaf: Array, counts: Array) -> Array:
    """Compute each coordinate's median over those that count, ``[S, ...] -> [...]``; 0 if none."""
    ordered, number = ascending(leaf, counts), jnp.sum(counts)
    # Halved before they are added: the sum of two large values may overflow.
    halves = [
        0.5 * jnp.take(ordered, jnp.maximum(middle, 0), axis=0)
        for middle in ((number - 1) // 2, number // 2)
    ]
    return jnp.where(number > 0, halves[0] + halves[1], 0)


def squared_norms(messages: Message, origin: Message) -> Array:
    """Compute squared l2 distances of messages [S, ...] to `origin` [...], over all leaves: [S]."""

    def one(leaf: Array, start: Array) -> Array:
        apart = (leaf - start[None]).astype(jnp.float32)
        return jnp.sum(jnp.square(apart), axis=tuple(range(1, leaf.ndim)))

    parts: list[Array] = jax.tree.leaves(jax.tree.map(one, messages, origin))
    return sum(parts[1:], parts[0])


def squared_distances(messages: Message) -> Array:
    """Compute squared l2 distances of all pairs of messages [S, ...], over all leaves: [S, S].

    float32, from differences: the rounding of inner products would exceed the distance of two
    similar messages. One row after the other, so that no array is larger than the messages.
    """
    table: Array = jax.lax.map(lambda one: squared_norms(messages, one), messages)
    return table


def krum_ranks(distances: Array, place: Array, counts: Array, hostile: int) -> Array:
    """Rank the messages by Krum's score: int [S], 0 is the best.

    The score is the sum of the squared distances to the n - f - 2 nearest (at least one) of the n
    messages that count. Ties are broken by the clients' order.

    Args:
        distances: squared, [S, S].
        place: int32 [S], the order of the clients.
        counts: bool [S]; messages that do not count are ranked behind all others.
        hostile: f.
    """
    size = distances.shape[0]
    others = counts[:, None] & counts[None] & ~jnp.eye(size, dtype=bool)
    near = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    neighbours = jnp.maximum(jnp.sum(counts) - hostile - 2, 1)
    score = jnp.sum(jnp.where(jnp.arange(size)[None] < neighbours, near, 0), axis=1)
    return jnp.argsort(jnp.lexsort((place, score, ~counts)))
