"""How many bytes cross the network: a count from shapes, without sending anything."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from fedjax_med.core import round as federated
from fedjax_med.core.aggregation import MessageTransform, plain
from fedjax_med.core.round import ClientState, FedAlgorithm, ServerState
from fedjax_med.core.types import Examples


class Traffic(NamedTuple):
    """The bytes of ONE client in ONE round, without the network's own headers."""

    up: int  # its message, after the transforms
    down: int  # what it is sent
    plain_up: int  # its message without transforms


def traffic(
    algorithm: FedAlgorithm,
    transforms: Sequence[MessageTransform],
    server: ServerState,
    client: ClientState,
    data: Examples,
) -> Traffic:
    """What one client sends and is sent in one round.

    Transforms are counted as if each client applied them before it sends.

    Args:
        algorithm: the algorithm.
        transforms: in their order.
        server: the server's state, or its shapes.
        client: of one client, or its shapes.
        data: the clients' training examples, ``[C, N]``, or their shapes.
    """
    message = federated.message_of(algorithm, server, client, data)
    before = after = plain(message)
    for transform in transforms:
        after = after if transform.wire is None else transform.wire(message, after)
    sent = server.params
    if algorithm.download is not None:
        sent = jax.eval_shape(algorithm.download, server, client)
    return Traffic(after.num_bytes, plain(sent).num_bytes, before.num_bytes)
