"""The moving average of the global model over rounds, for any algorithm."""

from typing import Any, NamedTuple

import optax

from fedjax_med.federated import ClientResult, FedAlgorithm
from fedjax_med.types import Array, Examples, Key, Message, Params


class ServerState(NamedTuple):
    """The averaged model, which is evaluated, and the algorithm's own state, which trains on."""

    params: Params
    inner: Any
    average: optax.OptState


def wrap(algorithm: FedAlgorithm, decay: float) -> FedAlgorithm:
    """`algorithm`, whose global model is evaluated as an average (Polyak & Juditsky, 1992).

    Clients train from the model itself, as without the average. The average is exponential and
    without the bias towards the first model: after one round it is the model of that round.

    Args:
        algorithm: its server's state has ``params``.
        decay: in [0, 1), the share of the average that stays when a round is added.
    """
    moving = optax.ema(decay, debias=True)

    def init(params: Params) -> tuple[ServerState, Any]:
        inner, client = algorithm.init(params)
        return ServerState(params, inner, moving.init(params)), client

    def client_update(
        server: ServerState, client: Any, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        return algorithm.client_update(server.inner, client, examples, round, key)

    def server_update(server: ServerState, message: Message) -> ServerState:
        inner = algorithm.server_update(server.inner, message)
        params, average = moving.update(inner.params, server.average)
        return ServerState(params, inner, average)

    return FedAlgorithm(init, client_update, server_update)
