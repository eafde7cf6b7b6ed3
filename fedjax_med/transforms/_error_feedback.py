"""Sends a part of each client's message and remembers the rest for later rounds.

The error feedback of Stich et al. ("Sparsified SGD with Memory", NeurIPS 2018): what was held back
is added to the next message, so that every value arrives in the end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fedjax_med.core.aggregation import UNCHANGED, MessageTransform, Senders, State, Wire, plain
from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError

MOST_BYTES = 8 * 2**30  # of what is remembered of all clients


def num_values(message: Message) -> int:
    """V, the numbers in one client's message (arrays or shapes)."""
    return sum(leaf.size for leaf in jax.tree.leaves(message))


def num_sent(share: float, message: Message) -> int:
    """How many of the message's values `share` is, at least one."""
    return max(1, round(share * num_values(message)))


def largest(scores: Array, number: int) -> Array:
    """Where the `number` largest of `scores` [V] are, ties to the first ones: bool [V]."""
    places = jax.lax.top_k(scores, number)[1]
    return jnp.zeros(scores.shape, bool).at[places].set(True)


def _memory(name: str, message: Message, num_clients: int) -> Array:
    """Zeros [C, V] in the message's type, if they are not too many."""
    flat: Any = jax.eval_shape(lambda message: ravel_pytree(message)[0], message)
    num_bytes = num_clients * flat.size * flat.dtype.itemsize
    if num_bytes > MOST_BYTES:
        raise UserError(
            f"expected at most {MOST_BYTES / 2**30:.0f} GiB of memory for error feedback, but "
            f"transform {name} remembers what it held back of each client: "
            f"{num_bytes / 2**30:.1f} GiB; use error_feedback=False."
        )
    return jnp.zeros((num_clients, flat.size), flat.dtype)


def build(
    name: str,
    choose: Callable[[Array, int, Key], Array],
    share: float,
    error_feedback: bool,
    *,
    places: Callable[[int, int], int],
    scale: bool = False,
) -> MessageTransform:
    """The transform that sets all but a `share` of each client's values to zero.

    Args:
        name: of the transform, for messages.
        choose: ``(values [V] of one client, how many, key) -> bool [V]``, which are sent.
        share: in (0, 1], of the values in all leaves together; at least one value is sent. With 1
            messages stay as they are.
        error_feedback: whether what was held back is remembered, which takes the size of a message
            for each client. A client that does not count in a round remembers what it did before.
        places: ``(how many are sent, V) -> bits`` that tell the server where they belong.
        scale: whether the values that are sent make up for the others, where those are forgotten.

    Raises:
        UserError: `share` is out of its range; from ``init``: the memory is too large.
    """
    if not 0 < share <= 1:
        raise UserError(f"expected transform {name} to have 0 < share <= 1, got share={share}.")
    if share == 1:
        return UNCHANGED

    def init(message: Message, num_clients: int) -> State:
        return _memory(name, message, num_clients) if error_feedback else ()

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        one = jax.tree.map(lambda leaf: leaf[0], messages)
        unravel, number = ravel_pytree(one)[1], num_sent(share, one)
        fresh = jax.vmap(lambda message: ravel_pytree(message)[0])(messages)
        before = state[senders.place] if error_feedback else jnp.zeros_like(fresh)
        whole = fresh + before
        keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(senders.place)
        chosen = jax.vmap(lambda values, key: choose(values, number, key))(whole, keys)
        factor = whole.shape[1] / number if scale and not error_feedback else 1.0
        counts = rows(senders.weight > 0, fresh)
        sent = jnp.where(counts, jnp.where(chosen, whole * factor, 0), fresh)
        if error_feedback:
            rest = jnp.where(counts, jnp.where(chosen, 0, whole), before)
            state = state.at[senders.place].set(rest)
        return jax.vmap(unravel)(sent), state

    def wire(message: Message, before: Wire) -> Wire:
        sent, total = num_sent(share, message), num_values(message)
        if sent == total:
            return before
        # With what is remembered, values are on no grid that earlier transforms rounded them to;
        # and few of the values that a rotated message stands for are not few numbers of it.
        if error_feedback or before.rotated:
            before = plain(message)
        values = min(before.values, sent)
        return Wire(values, before.bits, before.extra + places(values, total))

    return MessageTransform(init, update, wire)
