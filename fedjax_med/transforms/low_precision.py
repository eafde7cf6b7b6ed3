"""Rounding of values to 16 bits (Micikevicius et al., ICLR 2018, "Mixed Precision Training")."""

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import ClientInfo, MessageTransform, State
from fedjax_med.core.payload import Payload
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import check_name

_KINDS = {"bfloat16": jnp.bfloat16, "float16": jnp.float16}


def build(*, kind: str = "bfloat16") -> MessageTransform:
    """Build the transform that rounds to the finite values of a 16-bit type; the dtype stays.

    Values that are not finite stay unchanged.

    Args:
        kind: ``bfloat16`` has the range of float32 and 8 significant bits; ``float16`` has 11, but
            values beyond 65504 become 65504 and those below 3e-8 zero.

    Raises:
        UserError: `kind` is something else.
    """
    check_name(kind, _KINDS, "the kinds of low_precision")

    def shorten(leaf: Array) -> Array:
        # An infinity that arises here would escape the check for finite updates, which is earlier.
        most = jnp.asarray(jnp.finfo(_KINDS[kind]).max, leaf.dtype)  # type: ignore[no-untyped-call]
        leaf = jnp.where(jnp.isinf(leaf), leaf, jnp.clip(leaf, -most, most))
        # Without the barrier XLA may remove the two casts as a pair that cancels out.
        short: Array = jax.lax.optimization_barrier(leaf.astype(_KINDS[kind]))
        return short.astype(leaf.dtype)

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del client_info, key  # each message separately, and nothing is random here
        return jax.tree.map(shorten, messages), state

    def payload(message: Message, before: Payload) -> Payload:
        del message
        return before._replace(bits=min(16, before.bits))

    return MessageTransform(lambda message, num_clients: (), update, payload, across=False)
