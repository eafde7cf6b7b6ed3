"""FedDyn (Acar et al., ICLR 2021): each client's objective has a regulariser, updated every round.

A client minimises its loss - <g_i, w> + alpha / 2 * (distance to the global model)^2, where g_i is
the gradient of its loss at its last model, so that all agree where the global loss is stationary.
The server keeps h, the mean of the g_i. The paper's mean is over all m clients; here it is weighted
by examples, like the loss, over the clients that have participated so far.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import _participation, _sending
from fedjax_med.algorithms._participation import ParticipationState
from fedjax_med.algorithms.fed_prox import held
from fedjax_med.client.local_training import LocalTrainer, train
from fedjax_med.core.algorithm import (
    ClientOutput,
    FederatedAlgorithm,
    Traits,
    client_output,
    optimizer_step,
)
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError


class ServerState(NamedTuple):
    """The global model, the server optimizer's state, and h."""

    params: Params
    optimizer: optax.OptState
    gradient: Params
    heard: ParticipationState  # the field's name in checkpoints


class ClientState(NamedTuple):
    """The state that stays at a client."""

    gradient: Params  # g_i
    rounds: Array  # int32 [], the number in which it has participated


def _after_sending(
    alpha: float, client: ClientState, message: Message, sent: Message
) -> tuple[Message, ClientState]:
    """Change g_i by what the server hears of the message, so that h stays the clients' mean."""
    heard = _sending.scaled(sent, _sending.following(message, sent))
    gradient = jax.tree.map(lambda g, h, m: g + alpha * (h - m), client.gradient, heard, message)
    return heard, client._replace(gradient=gradient)


def build(
    training: LocalTrainer, server_optimizer: optax.GradientTransformation, *, alpha: float = 0.01
) -> FederatedAlgorithm:
    """Build FedDyn: the messages are FedAvg's; the server steps against their mean + h / alpha.

    Under transforms, g_i changes by what is really sent, scaled to be nearest to the message. What
    is not sent shows again in the next message, so `error_feedback` of transforms is not used.

    Transforms that send only some values of a message (``top_k``, ``random_k``) need an alpha of at
    least 1; smaller ones are refused. The server's step has the sum of all earlier messages,
    h / alpha, and with it the error of each; the g_i, with which that error goes away, change by
    alpha times what arrives. So with a small alpha the errors add up for long before they fall. For
    the same reason a tight ``clip`` and ``quantize`` to few bits need more rounds with a small one.

    Args:
        training: settings of local training; long enough to approach the objective's minimum.
        server_optimizer: ``sgd`` with learning rate 1 in the paper.
        alpha: positive. The paper tries 0.001 to 0.1, with whole messages.

    Raises:
        UserError: `alpha` is not positive.
    """
    if not alpha > 0:
        raise UserError(f"expected algorithm fed_dyn to have alpha > 0, got alpha={alpha}.")
    traits = Traits(steps_only=True, resends=True, no_sparse=_sending.no_sparse(alpha))

    def init(params: Params) -> tuple[ServerState, ClientState]:
        zero = jax.tree.map(jnp.zeros_like, params)
        server = ServerState(params, server_optimizer.init(params), zero, _participation.init())
        return server, ClientState(zero, jnp.int32(0))

    def client_update(
        server: ServerState, client: ClientState, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        regularised = training._replace(grad_fn=held(training.grad_fn, server.params, alpha))
        offset = jax.tree.map(jnp.negative, client.gradient)
        params, metrics = train(
            regularised, server.params, examples, key, round, gradient_offset=offset
        )
        delta = jax.tree.map(jnp.subtract, server.params, params)
        gradient = jax.tree.map(lambda g, d: g + alpha * d, client.gradient, delta)
        state = ClientState(gradient, client.rounds + (metrics["steps"] > 0))
        return client_output(server.params, params, state, examples, metrics)

    def process_updates(
        server: ServerState, results: ClientOutput
    ) -> tuple[ServerState, ClientState]:
        participation = _participation.update(
            server.heard, results.num_examples, results.state.rounds
        )
        # New clients join the mean, with g_i = 0 until now.
        old = server.heard.examples / jnp.maximum(participation.examples, 1)
        gradient = jax.tree.map(lambda h: old.astype(h.dtype) * h, server.gradient)
        return server._replace(gradient=gradient, heard=participation), results.state

    def server_update(server: ServerState, message: Message) -> ServerState:
        share = server.heard.share
        gradient = jax.tree.map(lambda h, d: h + alpha * share * d, server.gradient, message)
        step = jax.tree.map(lambda d, h: d + h / alpha, message, gradient)
        moved = optimizer_step(server_optimizer, step, server.optimizer, server.params)
        return ServerState(*moved, gradient, server.heard)

    base = FederatedAlgorithm(init, client_update, server_update, traits=traits)
    follow = functools.partial(_after_sending, alpha)
    return base._replace(process_updates=process_updates, after_sending=follow)
