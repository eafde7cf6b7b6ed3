"""Network traffic in bytes, computed from shapes without sending anything."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from fedjax_med.core.aggregation import MessageTransform
from fedjax_med.core.algorithm import ClientState, FederatedAlgorithm, ServerState, message_of
from fedjax_med.core.payload import uncompressed
from fedjax_med.core.types import Examples


class Traffic(NamedTuple):
    """Bytes of ONE client in ONE round, without the network's own headers."""

    up: int  # the message that the client sends, after the transforms
    down: int  # what the client receives
    plain_up: int  # the message without transforms


def traffic(
    algorithm: FederatedAlgorithm,
    transforms: Sequence[MessageTransform],
    server: ServerState,
    client: ClientState,
    data: Examples,
) -> Traffic:
    """Compute the traffic of one client in one round.

    Transforms are counted as if each client applied them before sending.

    Args:
        algorithm: the algorithm.
        transforms: in order.
        server: the server's state, or its shapes.
        client: the state of one client, or its shapes.
        data: the clients' training examples, ``[C, N]``, or their shapes.
    """
    message = message_of(algorithm, server, client, data)
    before = after = uncompressed(message)
    for transform in transforms:
        after = after if transform.payload is None else transform.payload(message, after)
    if transforms:
        after = after._replace(extra=after.extra + algorithm.traits.header_bits)
    sent = server.params
    if algorithm.download is not None:
        sent = jax.eval_shape(algorithm.download, server, client)
    return Traffic(after.num_bytes, uncompressed(sent).num_bytes, before.num_bytes)
