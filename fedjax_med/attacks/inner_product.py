"""Inner-product attack: hostile clients oppose the honest mean, so that the loss rises.

Xie, Koyejo & Gupta, UAI 2019, "Fall of Empires": if the inner product of the aggregated message
and the honest mean is negative, the loss goes up. Hostile clients know the honest messages.
"""

import jax
import jax.numpy as jnp

from fedjax_med.core.faults import Attack, replace_where
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(num_classes: int, *, clients: tuple[int, ...] = (0,), epsilon: float = 10.0) -> Attack:
    """Build the attack: hostile clients send ``-epsilon`` times the counted honest clients' mean.

    Args:
        num_classes: not used by this attack.
        clients: ids of the hostile clients.
        epsilon: above (C - q) / q, with q of C equally weighted clients hostile, the mean is
            reversed; a small one (from 0.1 in the paper) is hard to detect.

    Raises:
        UserError: `epsilon` is not positive.
    """
    del num_classes
    if not epsilon > 0:
        raise UserError(
            f"expected attack inner_product to have epsilon > 0, got epsilon={epsilon}."
        )

    def messages(messages: Message, hostile: Array, weight: Array, key: Key) -> Message:
        del key  # nothing is random here
        honest = ~hostile & (weight > 0)
        number = jnp.maximum(jnp.sum(honest), 1)

        def against(leaf: Array) -> Array:
            total = jnp.sum(jnp.where(broadcast_rows(honest, leaf), leaf, 0), axis=0, keepdims=True)
            return jnp.broadcast_to(-epsilon * total / number, leaf.shape)

        return replace_where(hostile, jax.tree.map(against, messages), messages)

    return Attack(tuple(clients), messages=messages)
