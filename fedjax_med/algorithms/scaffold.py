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

from fedjax_med.federated import ClientResult, FedAlgorithm
from fedjax_med.local import LocalTraining, go_on
from fedjax_med.types import Array, Examples, Key, Message, Params


class Heard(NamedTuple):
    """Which part of the clients the server hears in a round, by examples.

    The paper's |S| / N once all clients have taken part. Before, N is those that have: the estimate
    of a client not yet heard is taken to be the server's, which keeps the server's the mean of all.
    """

    examples: Array  # float32 [], of all clients that have taken part so far
    share: Array  # float32 [], of these, the examples of those that take part in this round


def nobody() -> Heard:
    """Before the first round."""
    return Heard(jnp.float32(0), jnp.float32(1))


def hear(heard: Heard, weight: Array, rounds: Array) -> Heard:
    """After the messages of one more round.

    Args:
        heard: before.
        weight: float32 [S], the examples of each client; 0: does not count.
        rounds: int32 [S], the rounds in which each has taken part, this one included.
    """
    examples = heard.examples + jnp.sum(jnp.where(rounds == 1, weight, 0))
    return Heard(examples, jnp.sum(weight) / jnp.maximum(examples, 1))


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
        known = client.rounds > 0
        control = jax.tree.map(
            lambda own, c: jnp.where(known, own, c), client.control, server.control
        )
        offset = jax.tree.map(jnp.subtract, server.control, control)
        start = recorded.optimizer.init(server.params)
        params, (sums, _), metrics = go_on(
            recorded, server.params, start, examples, key, round, gradient_offset=offset
        )
        steps = jnp.maximum(metrics["steps"], 1)
        some = metrics["steps"] > 0
        new = jax.tree.map(
            lambda total, less, own: jnp.where(some, total / steps - less, own),
            *(sums, offset, client.control),
        )
        change = jax.tree.map(lambda new, old: jnp.where(some, new - old, 0), new, control)
        delta = jax.tree.map(jnp.subtract, server.params, params)
        weight = jnp.sum(examples.mask, dtype=jnp.float32)
        return ClientResult(
            (delta, change), ClientState(new, client.rounds + some), weight, metrics
        )

    def receive(server: ServerState, results: ClientResult) -> tuple[ServerState, ClientState]:
        heard = hear(server.heard, results.weight, results.state.rounds)
        return server._replace(heard=heard), results.state

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
        receive=receive,
        download=lambda server, client: (server.params, server.control),
    )
