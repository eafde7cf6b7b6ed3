"""Clipping of each message's norm (McMahan et al., ICLR 2018)."""

import jax
import optax

from fedjax_med.core.aggregation import ClientInfo, MessageTransform, State
from fedjax_med.core.trees import clip_factor
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, norm: float = 1.0) -> MessageTransform:
    """Build the transform that scales messages down to at most l2 norm `norm` over all leaves.

    Args:
        norm: the largest l2 norm, in the units of the message; smaller messages stay unchanged.

    Raises:
        UserError: `norm` is not positive.
    """
    if not norm > 0:
        raise UserError(f"expected transform clip to have norm > 0, got norm={norm}.")

    def clip(message: Message) -> Message:
        factor = clip_factor(optax.tree.norm(message), norm)
        return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), message)

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del client_info, key  # each message separately, and nothing is random here
        return jax.vmap(clip)(messages), state

    return MessageTransform(lambda message, num_clients: (), update, across=False)
