"""SCAFFOLD (Karimireddy et al., ICML 2020): control variates correct the clients' drift.

Each client keeps an estimate c_i of its own gradient, the server keeps c, their mean weighted by
examples, and clients step along gradient + c - c_i. The new c_i is that of the paper's option II,
c_i - c + (x - y) / (K * learning rate): for SGD (x - y) / (K * learning rate) is the mean of the K
corrected gradients. That mean itself is taken here, so that no learning rate is needed, schedules
are accounted for, and any optimizer may be used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms._participation import Heard, hear, nobody
from fedjax_med.client.local_training import LocalTraining, go_on
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params


class ServerState(NamedTuple):
    """The global model, what the server optimizer remembers, and the mean gradient estimate."""

    params: Params
    optimizer: optax.OptState
    control: Params
    heard: Heard


class ClientState(NamedTuple):
    """What stays at a client."""

    control: Params  # the estimate of its gradient
    rounds: Array  # int32 [], in which it has taken part; with 0 its control is the server's


def _summing() -> optax.GradientTransformation:
    """Remembers the sum of the gradients, and leaves them as they are."""

    def update(
        updates: Params, sums: Params, params: Params | None = None
    ) -> tuple[Params, Params]:
        del params
        return updates, jax.tree.map(jnp.add, sums, updates)

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def _where(condition: Array, one: Params, other: Params) -> Params:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def _receive(server: ServerState, results: ClientResult) -> tuple[ServerState, ClientState]:
    heard = hear(server.heard, results.weight, results.state.rounds)
    return server._replace(heard=heard), results.state


def build(training: LocalTraining, server_optimizer: optax.GradientTransformation) -> FedAlgorithm:
    """FedAvg whose clients step along gradient + c - c_i; the message is (delta, change of c_i).

    The first round is FedAvg's. With ``mean`` as reducer c is the clients' mean after any rounds,
    whoever takes part; other reducers keep it about so.

    Args:
        training: how a client trains; in the paper with plain ``sgd``.
        server_optimizer: steps against the reduced delta.
    """
    recorded = training._replace(optimizer=optax.chain(_summing(), training.optimizer))

    def init(params: Params) -> tuple[ServerState, ClientState]:
        zero = jax.tree.map(jnp.zeros_like, params)
        server = ServerState(params, server_optimizer.init(params), zero, nobody())
        return server, ClientState(zero, jnp.int32(0))

    def client_update(
        server: ServerState, client: ClientState, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        control = _where(client.rounds > 0, client.control, server.control)
        offset = jax.tree.map(jnp.subtract, server.control, control)
        start = recorded.optimizer.init(server.params)
        params, (sums, _), metrics = go_on(
            recorded, server.params, start, examples, key, round, gradient_offset=offset
        )
        steps = jnp.maximum(metrics["steps"], 1)
        some = metrics["steps"] > 0
        new = jax.tree.map(lambda total, less: total / steps - less, sums, offset)
        new = _where(some, new, client.control)
        change = jax.tree.map(jnp.subtract, new, control)
        delta = jax.tree.map(jnp.subtract, server.params, params)
        weight = jnp.sum(examples.mask, dtype=jnp.float32)
        return ClientResult(
            (delta, change), ClientState(new, client.rounds + some), weight, metrics
        )

    def server_update(server: ServerState, message: Message) -> ServerState:
        delta, change = message
        updates, state = server_optimizer.update(delta, server.optimizer, server.params)
        share = server.heard.share
        control = jax.tree.map(lambda old, mean: old + share * mean, server.control, change)
        params = optax.apply_updates(server.params, updates)
        return ServerState(params, state, control, server.heard)

    return FedAlgorithm(
        init,
        client_update,
        server_update,
        receive=_receive,
        download=lambda server, client: (server.params, server.control),
    )
