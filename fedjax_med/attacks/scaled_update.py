"""Scaled updates from hostile clients (Bagdasaryan et al., AISTATS 2020).

"How to backdoor federated learning" calls it model replacement: if ``scale`` is the number of
clients over the server's learning rate, the new global model is the hostile client's, as far as
the other updates cancel. Combined with `fedjax_med.attacks.backdoor` it is the paper's attack.
"""

import jax

from fedjax_med.core.faults import Attack, replace_where
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(num_classes: int, *, clients: tuple[int, ...] = (0,), scale: float = 10.0) -> Attack:
    """Build the attack: hostile clients send ``scale * message``.

    Args:
        num_classes: not used by this attack.
        clients: ids of the hostile clients.
        scale: gamma in the paper.

    Raises:
        UserError: `scale` is not positive.
    """
    del num_classes
    if not scale > 0:
        raise UserError(f"expected attack scaled_update to have scale > 0, got scale={scale}.")

    def messages(messages: Message, hostile: Array, weight: Array, key: Key) -> Message:
        del weight, key  # each message separately, and nothing is random here
        scaled = jax.tree.map(lambda leaf: scale * leaf, messages)
        return replace_where(hostile, scaled, messages)

    return Attack(tuple(clients), messages=messages)
