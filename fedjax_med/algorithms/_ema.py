"""The moving average of the global model over rounds, for any algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params


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
        return ServerState(inner.params, inner, moving.init(inner.params)), client

    def client_update(
        server: ServerState, client: Any, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        return algorithm.client_update(server.inner, client, examples, round, key)

    def server_update(server: ServerState, message: Message) -> ServerState:
        inner = algorithm.server_update(server.inner, message)
        params, average = moving.update(inner.params, server.average)
        return ServerState(params, inner, average)

    def inner_state(function: Callable[..., Any], params: bool) -> Callable[..., Any]:
        """`function` of the algorithm's own state, by the averaged model if it uses `params`."""

        def of_wrapped(server: ServerState, client: Any) -> Any:
            inner = server.inner._replace(params=server.params) if params else server.inner
            return function(inner, client)

        return of_wrapped

    def receive(server: ServerState, results: ClientResult) -> tuple[ServerState, Any]:
        assert algorithm.receive is not None
        inner, clients = algorithm.receive(server.inner, results)
        return server._replace(inner=inner), clients

    return algorithm._replace(
        init=init,
        client_update=client_update,
        server_update=server_update,
        personal=algorithm.personal and inner_state(algorithm.personal, True),
        download=inner_state(algorithm.download or _params, False),
        receive=algorithm.receive and receive,
    )


def _params(server: Any, client: Any) -> Params:
    """What clients are sent unless an algorithm says otherwise."""
    del client
    return server.params
