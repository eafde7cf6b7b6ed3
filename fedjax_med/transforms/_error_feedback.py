"""Sparsification with error feedback: the values not sent are kept for later rounds.

The error feedback of Stich et al. ("Sparsified SGD with Memory", NeurIPS 2018): values not sent
are added to the client's next message, so that all of them are sent in the end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fedjax_med.core.aggregation import UNCHANGED, ClientInfo, MessageTransform, State
from fedjax_med.core.payload import Payload, uncompressed
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError

MOST_BYTES = 8 * 2**30  # limit of the memory for all clients


def num_values(message: Message) -> int:
    """Count the values V of one client's message (arrays or shapes)."""
    return sum(leaf.size for leaf in jax.tree.leaves(message))


def num_sent(share: float, message: Message) -> int:
    """Count the values of the message that are sent for `share`, at least one."""
    return max(1, round(share * num_values(message)))


def largest(scores: Array, number: int) -> Array:
    """Mark the `number` largest of `scores` [V], the first ones among ties: bool [V]."""
    places = jax.lax.top_k(scores, number)[1]
    return jnp.zeros(scores.shape, bool).at[places].set(True)


def _memory(name: str, message: Message, num_clients: int) -> Array:
    """Build the zero memory [C, V] in the message's dtype; refuse one above `MOST_BYTES`."""
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
    """Build the transform that sets all but a `share` of each client's values to zero.

    Args:
        name: the transform's name, for errors.
        choose: ``(values [V] of one client, how many, key) -> bool [V]``, the values to send.
        share: in (0, 1], the share of the values in all leaves together; at least one is sent.
            With 1 messages stay unchanged.
        error_feedback: whether values not sent are remembered, which takes the memory of a message
            per client. A client that does not count in a round keeps its memory unchanged.
        places: ``(how many are sent, V) -> bits`` for the positions of the values that are sent.
        scale: whether, without error feedback, the values that are sent are divided by the share.

    Raises:
        UserError: `share` is out of range; from ``init``: the memory is too large.
    """
    if not 0 < share <= 1:
        raise UserError(f"expected transform {name} to have 0 < share <= 1, got share={share}.")
    if share == 1:
        return UNCHANGED

    def init(message: Message, num_clients: int) -> State:
        return _memory(name, message, num_clients) if error_feedback else ()

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        one = jax.tree.map(lambda leaf: leaf[0], messages)
        unravel, number = ravel_pytree(one)[1], num_sent(share, one)
        fresh = jax.vmap(lambda message: ravel_pytree(message)[0])(messages)
        before = state[client_info.client] if error_feedback else jnp.zeros_like(fresh)
        whole = fresh + before
        keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(client_info.client)
        chosen = jax.vmap(lambda values, key: choose(values, number, key))(whole, keys)
        factor = whole.shape[1] / number if scale and not error_feedback else 1.0
        counts = broadcast_rows(client_info.num_examples > 0, fresh)
        sent = jnp.where(counts, jnp.where(chosen, whole * factor, 0), fresh)
        if error_feedback:
            # What overflows may be left out by the aggregator, but would stay in the memory.
            sound = jnp.all(jnp.isfinite(whole), axis=1, keepdims=True)
            rest = jnp.where(counts & sound, jnp.where(chosen, 0, whole), before)
            state = state.at[client_info.client].set(rest)
        return jax.vmap(unravel)(sent), state

    def payload(message: Message, before: Payload) -> Payload:
        sent, total = num_sent(share, message), num_values(message)
        if sent == total:
            return before
        # With remembered values added, the sums are off the grid of earlier rounding; and a few
        # values of a message that is sent rotated are not a few of the rotated numbers.
        if error_feedback or before.rotated:
            before = uncompressed(message)
        values = min(before.values, sent)
        return Payload(values, before.bits, before.extra + places(values, total))

    return MessageTransform(init, update, payload, across=False, remembers=error_feedback)
