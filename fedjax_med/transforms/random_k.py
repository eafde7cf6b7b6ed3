"""Sends random values of each message, whose positions the server knows by a seed.

Stich et al., NeurIPS 2018, "Sparsified SGD with Memory"; without memory it is the random mask of
Konecny et al., 2016, "Federated Learning: Strategies for Improving Communication Efficiency".
"""

import jax

from fedjax_med.core.aggregation import SEED_BITS, MessageTransform
from fedjax_med.core.types import Array, Key
from fedjax_med.transforms import _error_feedback


def build(*, share: float = 0.1, error_feedback: bool = True) -> MessageTransform:
    """Set all but random values to zero; each client draws its own, anew in each round.

    Args:
        share: in (0, 1], of the values in all leaves together; at least one is sent. With 1
            messages stay as they are.
        error_feedback: whether what was held back is added to the client's next message, which
            takes the size of a message in memory for each client. Without, the values that are
            sent are divided by the share, so that the message is right in the mean.

    Raises:
        UserError: `share` is out of its range; from ``init``: the memory is above 8 GiB.
    """

    def choose(values: Array, number: int, key: Key) -> Array:
        return _error_feedback.largest(jax.random.bits(key, values.shape), number)

    def places(sent: int, total: int) -> int:
        del sent, total  # all of them are told by one seed
        return SEED_BITS

    return _error_feedback.build(
        "random_k", choose, share, error_feedback, places=places, scale=True
    )
