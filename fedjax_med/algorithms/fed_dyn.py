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
    model: Params  # its last model, as the server knows it
    lossy: Array  # bool [], whether a transform has lost a part of any of its messages


def _process_updates(server: ServerState, results: ClientOutput) -> tuple[ServerState, ClientState]:
    participation = _participation.update(server.heard, results.num_examples, results.state.rounds)
    # New clients join the mean, with g_i = 0 until now.
    old = server.heard.examples / jnp.maximum(participation.examples, 1)
    gradient = jax.tree.map(lambda h: old.astype(h.dtype) * h, server.gradient)
    return server._replace(gradient=gradient, heard=participation), results.state


def build(
    training: LocalTrainer, server_optimizer: optax.GradientTransformation, *, alpha: float = 0.01
) -> FederatedAlgorithm:
    """Build FedDyn: the messages are FedAvg's; the server steps against their mean + h / alpha.

    Under transforms that lose something, a message starts from the nearer of two models that the
    server knows as well: the global one, or the client's own as the server last knew it (compare
    "EF21", Richtarik et al., NeurIPS 2021); one bit says which. Both sides go on with what arrived:
    the server's step, h and g_i use the client's model as the server knows it. What is not sent
    shows again in the next message, so `error_feedback` of transforms is not used. Without such
    transforms, all messages start from the global model.

    One of the two alone does not train. From the global model, messages and so their errors stay
    large until each g_i is the client's gradient, which takes long with a small alpha, and the
    server's step has the sum of all errors, h / alpha. From the client's own model, messages vanish
    as training settles, but with a large alpha g_i adds up what is long out of date.

    Args:
        training: settings of local training; long enough to approach the objective's minimum.
        server_optimizer: ``sgd`` with learning rate 1 in the paper.
        alpha: positive. The paper tries 0.001 to 0.1.

    Raises:
        UserError: `alpha` is not positive.
    """
    if not alpha > 0:
        raise UserError(f"expected algorithm fed_dyn to have alpha > 0, got alpha={alpha}.")

    def init(params: Params) -> tuple[ServerState, ClientState]:
        zero = jax.tree.map(jnp.zeros_like, params)
        server = ServerState(params, server_optimizer.init(params), zero, _participation.init())
        return server, ClientState(zero, jnp.int32(0), zero, jnp.bool_(False))

    def client_update(
        server: ServerState, client: ClientState, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        regularised = training._replace(grad_fn=held(training.grad_fn, server.params, alpha))
        offset = jax.tree.map(jnp.negative, client.gradient)
        params, metrics = train(
            regularised, server.params, examples, key, round, gradient_offset=offset
        )
        gradient = jax.tree.map(
            lambda g, x, w: g + alpha * (x - w), client.gradient, server.params, params
        )
        origin = _sending.nearer(params, server.params, client.model, client.lossy)
        rounds = client.rounds + (metrics["steps"] > 0)
        state = ClientState(gradient, rounds, params, client.lossy)
        return client_output(origin, params, state, examples, metrics)

    def server_update(server: ServerState, message: Message) -> ServerState:
        share = server.heard.share
        gradient = jax.tree.map(lambda h, d: h + alpha * share * d, server.gradient, message)
        step = jax.tree.map(lambda d, h: d + h / alpha, message, gradient)
        moved = optimizer_step(server_optimizer, step, server.optimizer, server.params)
        return ServerState(*moved, gradient, server.heard)

    return FederatedAlgorithm(
        init,
        client_update,
        server_update,
        process_updates=_process_updates,
        traits=Traits(steps_only=True, resends=True, header_bits=1),
        after_sending=functools.partial(_sending.with_gradient, alpha),
        received=_sending.from_model,
    )
