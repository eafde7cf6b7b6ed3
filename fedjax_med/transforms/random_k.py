"""Sends random values of each message; the server derives their positions from a seed.

Stich et al., NeurIPS 2018, "Sparsified SGD with Memory"; without memory it is the random mask of
Konecny et al., 2016, "Federated Learning: Strategies for Improving Communication Efficiency".
"""

import jax

from fedjax_med.core.aggregation import MessageTransform
from fedjax_med.core.payload import SEED_BITS
from fedjax_med.core.types import Array, Key
from fedjax_med.transforms import _error_feedback


def build(*, share: float = 0.1, error_feedback: bool = True) -> MessageTransform:
    """Build the transform that sets all but random values to zero, drawn per client and round.

    Args:
        share: in (0, 1], the share of the values in all leaves together; at least one is sent.
            With 1 messages stay unchanged.
        error_feedback: whether values not sent are added to the client's next message, which
            takes the memory of a message per client. Otherwise the values that are sent are
            divided by the share, so that the message is unbiased.

    Raises:
        UserError: `share` is out of range; from ``init``: the memory is above 8 GiB.
    """

    def choose(values: Array, number: int, key: Key) -> Array:
        return _error_feedback.largest(jax.random.bits(key, values.shape), number)

    def places(sent: int, total: int) -> int:
        del sent, total  # one seed gives all positions
        return SEED_BITS

    return _error_feedback.build(
        "random_k", choose, share, error_feedback, places=places, scale=True
    )
