"""FedDyn (Acar et al., ICLR 2021): each client's objective is regularised anew in every round.

A client minimises its loss - <g_i, w> + alpha / 2 * (distance to the global model)^2, where g_i is
the gradient of its loss at its last model, so that all agree where the global loss is stationary.
The server keeps h, the mean of the g_i. The paper's mean is over all m clients; here it is weighted
by examples, like the loss, and m counts the clients that have taken part so far.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms._participation import Heard, hear, nobody
from fedjax_med.algorithms.fed_prox import held
from fedjax_med.client.local_training import LocalTraining, train
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError


class ServerState(NamedTuple):
    """The global model, what the server optimizer remembers, and h."""

    params: Params
    optimizer: optax.OptState
    gradient: Params
    heard: Heard


class ClientState(NamedTuple):
    """What stays at a client."""

    gradient: Params  # g_i
    rounds: Array  # int32 [], in which it has taken part


def build(
    training: LocalTraining, server_optimizer: optax.GradientTransformation, *, alpha: float = 0.01
) -> FedAlgorithm:
    """The message is FedAvg's; the server steps along the mean of them + h / alpha.

    Args:
        training: how a client trains; long enough to come near its objective's minimum.
        server_optimizer: ``sgd`` with learning rate 1 in the paper.
        alpha: positive. The paper tries 0.001 to 0.1.

    Raises:
        UserError: `alpha` is not positive.
    """
    if not alpha > 0:
        raise UserError(f"expected algorithm fed_dyn to have alpha > 0, got alpha={alpha}.")

    def init(params: Params) -> tuple[ServerState, ClientState]:
        zero = jax.tree.map(jnp.zeros_like, params)
        server = ServerState(params, server_optimizer.init(params), zero, nobody())
        return server, ClientState(zero, jnp.int32(0))

    def client_update(
        server: ServerState, client: ClientState, examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        regularised = training._replace(grad_fn=held(training.grad_fn, server.params, alpha))
        offset = jax.tree.map(jnp.negative, client.gradient)
        params, metrics = train(
            regularised, server.params, examples, key, round, gradient_offset=offset
        )
        delta = jax.tree.map(jnp.subtract, server.params, params)
        gradient = jax.tree.map(lambda g, d: g + alpha * d, client.gradient, delta)
        weight = jnp.sum(examples.mask, dtype=jnp.float32)
        state = ClientState(gradient, client.rounds + (metrics["steps"] > 0))
        return ClientResult(delta, state, weight, metrics)

    def receive(server: ServerState, results: ClientResult) -> tuple[ServerState, ClientState]:
        heard = hear(server.heard, results.weight, results.state.rounds)
        # Until now the g_i of the newcomers were zero, and not in the mean.
        old = server.heard.examples / jnp.maximum(heard.examples, 1)
        gradient = jax.tree.map(lambda h: old.astype(h.dtype) * h, server.gradient)
        return server._replace(gradient=gradient, heard=heard), results.state

    def server_update(server: ServerState, message: Message) -> ServerState:
        share = server.heard.share
        gradient = jax.tree.map(lambda h, d: h + alpha * share * d, server.gradient, message)
        step = jax.tree.map(lambda d, h: d + h / alpha, message, gradient)
        updates, state = server_optimizer.update(step, server.optimizer, server.params)
        params = optax.apply_updates(server.params, updates)
        return ServerState(params, state, gradient, server.heard)

    return FedAlgorithm(init, client_update, server_update, receive=receive)
