"""Rounds each value to 16 bits (Micikevicius et al., ICLR 2018, "Mixed Precision Training")."""

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import MessageTransform, Senders, State, Wire
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import check_name

_KINDS = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}


def build(*, kind: str = "bfloat16") -> MessageTransform:
    """Round to the nearest finite number of a shorter type; the message keeps its own type.

    What is no finite number already stays as it is.

    Args:
        kind: ``bfloat16`` has the range of float32 and 8 significant bits; ``float16`` has 11, but
            values beyond 65504 become 65504 and those below 3e-8 zero.

    Raises:
        UserError: `kind` is another name.
    """
    check_name(kind, _KINDS, "the kinds of low_precision")

    def shorten(leaf: Array) -> Array:
        # An infinity made here would come after the check for messages that are no numbers.
        most = jnp.asarray(jnp.finfo(_KINDS[kind]).max, leaf.dtype)  # type: ignore[no-untyped-call]
        leaf = jnp.where(jnp.isinf(leaf), leaf, jnp.clip(leaf, -most, most))
        # Without the barrier XLA may take two casts that cancel out for none.
        short: Array = jax.lax.optimization_barrier(leaf.astype(_KINDS[kind]))
        return short.astype(leaf.dtype)

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        del senders, key  # each message by itself, and nothing is random here
        return jax.tree.map(shorten, messages), state

    def wire(message: Message, before: Wire) -> Wire:
        del message
        return before._replace(bits=min(16, before.bits))

    return MessageTransform(lambda message, num_clients: (), update, wire)
