"""Hostile clients send the opposite of what they learned (Li et al., AAAI 2019, "RSA")."""

import jax

from fedjax_med.core.faults import Attack, instead
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(num_classes: int, *, clients: tuple[int, ...] = (0,), scale: float = 1.0) -> Attack:
    """Hostile clients send ``-scale * message``.

    Args:
        num_classes: of the experiment, for which this attack has no use.
        clients: who is hostile.
        scale: how far against their direction; the paper has 4, with which 8 of 20 clients break
            the mean.

    Raises:
        UserError: `scale` is not positive.
    """
    del num_classes
    if not scale > 0:
        raise UserError(f"expected attack sign_flip to have scale > 0, got scale={scale}.")

    def messages(messages: Message, hostile: Array, weight: Array, key: Key) -> Message:
        del weight, key  # each by itself, and nothing is random here
        opposite = jax.tree.map(lambda leaf: -scale * leaf, messages)
        return instead(hostile, opposite, messages)

    return Attack(tuple(clients), messages=messages)
