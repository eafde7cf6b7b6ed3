"""Hostile clients send their update many times (Bagdasaryan et al., AISTATS 2020).

"How to backdoor federated learning" calls it model replacement: with ``scale`` the number of
clients over the server's learning rate, the mean of all becomes the hostile client's model, as far
as those of the others cancel. With a backdoor beside it (`fedjax_med.attacks.backdoor`) it is the
paper's attack.
"""

import jax

from fedjax_med.core.faults import Attack, instead
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(num_classes: int, *, clients: tuple[int, ...] = (0,), scale: float = 10.0) -> Attack:
    """Hostile clients send ``scale * message``.

    Args:
        num_classes: of the experiment, for which this attack has no use.
        clients: who is hostile.
        scale: gamma in the paper.

    Raises:
        UserError: `scale` is not positive.
    """
    del num_classes
    if not scale > 0:
        raise UserError(f"expected attack scaled_update to have scale > 0, got scale={scale}.")

    def messages(messages: Message, hostile: Array, weight: Array, key: Key) -> Message:
        del weight, key  # each by itself, and nothing is random here
        scaled = jax.tree.map(lambda leaf: scale * leaf, messages)
        return instead(hostile, scaled, messages)

    return Attack(tuple(clients), messages=messages)
