"""Sign flipping: hostile clients send their negated update (Li et al., AAAI 2019, "RSA")."""

import jax

from fedjax_med.core.faults import Attack, replace_where
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(num_classes: int, *, clients: tuple[int, ...] = (0,), scale: float = 1.0) -> Attack:
    """Build the attack: hostile clients send ``-scale * message``.

    Args:
        num_classes: not used by this attack.
        clients: ids of the hostile clients.
        scale: the factor; the paper uses 4, with which 8 of 20 clients break the mean.

    Raises:
        UserError: `scale` is not positive.
    """
    del num_classes
    if not scale > 0:
        raise UserError(f"expected attack sign_flip to have scale > 0, got scale={scale}.")

    def messages(messages: Message, hostile: Array, weight: Array, key: Key) -> Message:
        del weight, key  # each message separately, and nothing is random here
        opposite = jax.tree.map(lambda leaf: -scale * leaf, messages)
        return replace_where(hostile, opposite, messages)

    return Attack(tuple(clients), messages=messages)
