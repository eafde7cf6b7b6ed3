"""Sends random values of each message, whose positions the server knows by a seed.

Stich et al., NeurIPS 2018, "Sparsified SGD with Memory"; without memory it is the random mask of
Konecny et al., 2016, "Federated Learning: Strategies for Improving Communication Efficiency".
"""

import jax

from fedjax_med import feedback
from fedjax_med.aggregate import MessageTransform, Wire
from fedjax_med.types import Array, Key, Message

_SEED = 64  # bits


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
        return feedback.largest(jax.random.bits(key, values.shape), number)

    def wire(message: Message, before: Wire) -> Wire:
        sent = feedback.num_sent(share, message)
        if sent == feedback.num_values(message):
            return before
        return Wire(min(before.values, sent), before.bits, before.extra + _SEED)

    transform = feedback.build("random_k", choose, share, error_feedback, scale=True)
    return transform._replace(wire=wire)
