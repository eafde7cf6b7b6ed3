"""Exponential moving average of the global model over rounds, for any algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params


class ServerState(NamedTuple):
    """The averaged model, for evaluation, and the algorithm's own state, for training."""

    params: Params
    inner: Any
    average: optax.OptState


def with_ema(algorithm: FederatedAlgorithm, decay: float) -> FederatedAlgorithm:
    """Evaluate the global model of `algorithm` as a moving average (Polyak & Juditsky, 1992).

    Clients still train from the model itself. The average is exponential and not biased towards
    the initial model: after one round it is the model of that round.

    Args:
        algorithm: its server state has a field ``params``.
        decay: in [0, 1), the weight of the previous average when a round is added.
    """
    moving = optax.ema(decay, debias=True)

    def init(params: Params) -> tuple[ServerState, Any]:
        inner, client = algorithm.init(params)
        return ServerState(inner.params, inner, moving.init(inner.params)), client

    def client_update(
        server: ServerState, client: Any, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        return algorithm.client_update(server.inner, client, examples, round, key)

    def server_update(server: ServerState, message: Message) -> ServerState:
        inner = algorithm.server_update(server.inner, message)
        params, average = moving.update(inner.params, server.average)
        return ServerState(params, inner, average)

    def inner_state(function: Callable[..., Any], params: bool) -> Callable[..., Any]:
        """Apply `function` to the algorithm's own state; with `params`, with the averaged model."""

        def of_wrapped(server: ServerState, client: Any) -> Any:
            inner = server.inner._replace(params=server.params) if params else server.inner
            return function(inner, client)

        return of_wrapped

    def process_updates(server: ServerState, results: ClientOutput) -> tuple[ServerState, Any]:
        assert algorithm.process_updates is not None
        inner, clients = algorithm.process_updates(server.inner, results)
        return server._replace(inner=inner), clients

    return algorithm._replace(
        init=init,
        client_update=client_update,
        server_update=server_update,
        personal_params=algorithm.personal_params and inner_state(algorithm.personal_params, True),
        download=inner_state(algorithm.download or _params, False),
        process_updates=algorithm.process_updates and process_updates,
    )


def _params(server: Any, client: Any) -> Params:
    """Give the default download, the server's parameters."""
    del client
    return server.params
