"""Sends the largest values of each message with their positions, the others in later rounds.

Stich et al., NeurIPS 2018, "Sparsified SGD with Memory".
"""

import jax.numpy as jnp

from fedjax_med.core.aggregation import MessageTransform
from fedjax_med.core.types import Array, Key
from fedjax_med.transforms import _error_feedback


def build(*, share: float = 0.1, error_feedback: bool = True) -> MessageTransform:
    """Build the transform that sets all but the values of largest magnitude to zero.

    Args:
        share: in (0, 1], the share of the values in all leaves together; at least one is sent.
            With 1 messages stay unchanged.
        error_feedback: whether values not sent are added to the client's next message, which
            takes the memory of a message per client. Otherwise training may stall or diverge
            (Beznosikov et al., JMLR 2023).

    Raises:
        UserError: `share` is out of range; from ``init``: the memory is above 8 GiB.
    """

    def choose(values: Array, number: int, key: Key) -> Array:
        del key  # nothing is random here
        return _error_feedback.largest(jnp.abs(values), number)

    def places(sent: int, total: int) -> int:
        # The position of each, or for each value one bit that says whether it is sent.
        return min(sent * (total - 1).bit_length(), total)

    return _error_feedback.build("top_k", choose, share, error_feedback, places=places)
