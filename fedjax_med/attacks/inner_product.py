"""Hostile clients send the opposite of what the others learned, so that the mean points back.

Xie, Koyejo & Gupta, UAI 2019, "Fall of Empires": where the inner product of the reduced message
and the honest mean is negative, the loss goes up. The hostile clients know what the others send.
"""

import jax
import jax.numpy as jnp

from fedjax_med.core.faults import Attack, instead
from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(num_classes: int, *, clients: tuple[int, ...] = (0,), epsilon: float = 10.0) -> Attack:
    """Hostile clients send ``-epsilon`` times the mean of the honest messages that count.

    Args:
        num_classes: of the experiment, for which this attack has no use.
        clients: who is hostile.
        epsilon: above (C - q) / q, with q of C clients hostile and all weighed the same, the mean
            points back; a small one (the paper has 0.1 and more) is hard to tell from the honest.

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
            total = jnp.sum(jnp.where(rows(honest, leaf), leaf, 0), axis=0, keepdims=True)
            return jnp.broadcast_to(-epsilon * total / number, leaf.shape)

        return instead(hostile, jax.tree.map(against, messages), messages)

    return Attack(tuple(clients), messages=messages)
