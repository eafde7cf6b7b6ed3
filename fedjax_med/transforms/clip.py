"""Bounds the norm of what each client sends (the clipping of McMahan et al., ICLR 2018)."""

import jax
import optax

from fedjax_med.core.aggregation import MessageTransform, Senders, State
from fedjax_med.core.trees import clip_factor
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, norm: float = 1.0) -> MessageTransform:
    """Scale down every message whose l2 norm over all leaves is above `norm`.

    Args:
        norm: the largest l2 norm that passes, in the units of the message.

    Raises:
        UserError: `norm` is not positive.
    """
    if not norm > 0:
        raise UserError(f"expected transform clip to have norm > 0, got norm={norm}.")

    def clip(message: Message) -> Message:
        factor = clip_factor(optax.tree.norm(message), norm)
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), message)

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        del senders, key  # each message by itself, and nothing is random here
        return jax.vmap(clip)(messages), state

    return MessageTransform(lambda message, num_clients: (), update)
