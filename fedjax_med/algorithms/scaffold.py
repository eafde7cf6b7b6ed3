"""SCAFFOLD (Karimireddy et al., ICML 2020): control variates correct the clients' drift.

Each client keeps an estimate c_i of its own gradient, the server keeps c, their mean, and clients
step along gradient + c - c_i. In two things this is not the paper's Algorithm 1 to the letter:

Weights. The paper's means, of the models and of the c_i, count every client the same; here both are
weighted by the clients' examples, as in FedAvg, so that the optimum is that of the mean loss over
all examples (the aggregator ``mean`` with ``weighting=uniform`` is the paper's for the messages).

Option II. The new c_i is c_i - c + (x - y) / (K * learning rate), option II of the paper, and not
option I, the gradient at the server's model: for SGD (x - y) / (K * learning rate) is the mean of
the K corrected gradients. Here that mean is computed directly, so that no learning rate is needed,
schedules are accounted for, and any optimizer may be used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import _participation, _sending
from fedjax_med.algorithms._participation import ParticipationState
from fedjax_med.client.local_training import LocalTrainer, resume_training
from fedjax_med.core.algorithm import (
    ClientOutput,
    FederatedAlgorithm,
    Traits,
    client_output,
    optimizer_step,
)
from fedjax_med.core.trees import select
from fedjax_med.core.types import Array, Examples, Key, Message, Params


class ServerState(NamedTuple):
    """The global model, the server optimizer's state, and the mean gradient estimate."""

    params: Params
    optimizer: optax.OptState
    control: Params
    heard: ParticipationState  # the field's name in checkpoints


class ClientState(NamedTuple):
    """The state that stays at a client."""

    control: Params  # the estimate of its gradient
    rounds: Array  # int32 [], rounds that it participated in; with 0 the server's control is used


def _summing() -> optax.GradientTransformation:
    """Build a transformation that sums the gradients in its state and passes them unchanged."""

    def update(
        updates: Params, sums: Params, params: Params | None = None
    ) -> tuple[Params, Params]:
        del params
        return updates, jax.tree.map(jnp.add, sums, updates)

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def _process_updates(server: ServerState, results: ClientOutput) -> tuple[ServerState, ClientState]:
    participation = _participation.update(server.heard, results.num_examples, results.state.rounds)
    return server._replace(heard=participation), results.state


def build(
    training: LocalTrainer, server_optimizer: optax.GradientTransformation
) -> FederatedAlgorithm:
    """Build FedAvg with local steps along gradient + c - c_i; messages are (delta, change of c_i).

    The first round is FedAvg's. With the aggregator ``mean``, c always is the clients' mean,
    whoever participates; with other aggregators approximately. Under transforms, c_i changes by
    what is really sent, scaled so that c_i never moves away from the client's gradient; delta is
    scaled to at most its length before the transforms. Clients cannot follow what an aggregator
    leaves out or clips (``median``, ``norm_bounded_mean``): to bound messages, use the transform
    ``clip``, with which c stays the clients' mean.

    Args:
        training: settings of local training; plain ``sgd`` in the paper.
        server_optimizer: steps against the aggregated delta.
    """
    recorded = training._replace(optimizer=optax.chain(_summing(), training.optimizer))

    def init(params: Params) -> tuple[ServerState, ClientState]:
        zero = jax.tree.map(jnp.zeros_like, params)
        server = ServerState(params, server_optimizer.init(params), zero, _participation.init())
        return server, ClientState(zero, jnp.int32(0))

    def client_update(
        server: ServerState, client: ClientState, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        control = select(client.rounds > 0, client.control, server.control)
        offset = jax.tree.map(jnp.subtract, server.control, control)
        start = recorded.optimizer.init(server.params)
        params, (sums, _), metrics = resume_training(
            recorded, server.params, start, examples, key, round, gradient_offset=offset
        )
        steps = jnp.maximum(metrics["steps"], 1)
        some = metrics["steps"] > 0
        new = jax.tree.map(lambda total, less: total / steps - less, sums, offset)
        new = select(some, new, client.control)
        change = jax.tree.map(jnp.subtract, new, control)
        state = ClientState(new, client.rounds + some)
        output = client_output(server.params, params, state, examples, metrics)
        return output._replace(update=(output.update, change))

    def server_update(server: ServerState, message: Message) -> ServerState:
        delta, change = message
        params, state = optimizer_step(server_optimizer, delta, server.optimizer, server.params)
        share = server.heard.share
        control = jax.tree.map(lambda old, mean: old + share * mean, server.control, change)
        return ServerState(params, state, control, server.heard)

    return FederatedAlgorithm(
        init,
        client_update,
        server_update,
        process_updates=_process_updates,
        traits=Traits(steps_only=True),
        download=lambda server, client: (server.params, server.control),
        after_sending=_sending.with_controls,
    )
