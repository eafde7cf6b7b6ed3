"""Sends the largest values of each message with their positions, and the others in later rounds.

Stich et al., NeurIPS 2018, "Sparsified SGD with Memory".
"""

import jax.numpy as jnp

from fedjax_med.core.aggregation import MessageTransform
from fedjax_med.core.types import Array, Key
from fedjax_med.transforms import _error_feedback


def build(*, share: float = 0.1, error_feedback: bool = True) -> MessageTransform:
    """Set all but the values of largest magnitude to zero.

    Args:
        share: in (0, 1], of the values in all leaves together; at least one is sent. With 1
            messages stay as they are.
        error_feedback: whether what was held back is added to the client's next message. Without,
            training may stall or diverge (Beznosikov et al., JMLR 2023). It takes the
            size of a message in memory for each client.

    Raises:
        UserError: `share` is out of its range; from ``init``: the memory is above 8 GiB.
    """

    def choose(values: Array, number: int, key: Key) -> Array:
        del key  # nothing is random here
        return _error_feedback.largest(jnp.abs(values), number)

    def places(sent: int, total: int) -> int:
        return sent * (total - 1).bit_length()

    return _error_feedback.build("top_k", choose, share, error_feedback, places=places)
