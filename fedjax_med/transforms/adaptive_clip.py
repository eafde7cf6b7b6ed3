"""Clipping to a quantile of the messages' norms, tracked from round to round.

Andrew et al., NeurIPS 2021, "Differentially Private Learning with Adaptive Clipping"; here without
noise, and so without privacy.
"""

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.aggregation import ClientInfo, MessageTransform, State
from fedjax_med.core.trees import broadcast_rows, clip_factor
from fedjax_med.core.types import Key, Message
from fedjax_med.errors import UserError


def build(*, quantile: float = 0.5, norm: float = 1.0, rate: float = 0.2) -> MessageTransform:
    """Build the transform that scales down messages with l2 norms above an adaptive bound.

    After each round the bound is multiplied by ``exp(-rate * (b - quantile))``, where b is the
    share of the clients that count whose norm was at most the bound.

    Args:
        quantile: in (0, 1), the share of the clients whose messages should stay unchanged.
        norm: the initial bound, in the units of the message.
        rate: the learning rate of the bound; 0 keeps the initial one.

    Raises:
        UserError: an option is out of range.
    """
    if not 0 < quantile < 1:
        raise UserError(
            f"expected transform adaptive_clip to have 0 < quantile < 1, got quantile={quantile}."
        )
    if not norm > 0:
        raise UserError(f"expected transform adaptive_clip to have norm > 0, got norm={norm}.")
    if not rate >= 0:
        raise UserError(f"expected transform adaptive_clip to have rate >= 0, got rate={rate}.")

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        del key  # nothing is random here
        norms = jax.vmap(optax.tree.norm)(messages)
        factor = clip_factor(norms, state)
        clipped = jax.tree.map(
            lambda leaf: leaf * broadcast_rows(factor, leaf).astype(leaf.dtype), messages
        )
        counts = client_info.num_examples > 0
        number = jnp.sum(counts)
        below = jnp.sum(counts & (norms <= state)) / jnp.maximum(number, 1)
        moved = state * jnp.exp(-rate * (below - quantile))
        return clipped, jnp.where(number > 0, moved, state)

    return MessageTransform(lambda message, num_clients: jnp.float32(norm), update, across=True)
