"""Federated averaging (McMahan et al., AISTATS 2017), with any server optimizer.

The message is the pseudo-gradient, global - local, so every optax optimizer is a server
optimizer (Reddi et al., ICLR 2021, "Adaptive Federated Optimization"): ``sgd`` with learning rate 1
is FedAvg, with momentum FedAvgM. The paper's FedAdam, FedYogi and FedAdagrad are ``fed_adam``,
``fed_yogi`` and ``fed_adagrad`` (`fedjax_med.algorithms`); optax's ``adam``, ``yogi`` and
``adagrad`` take other steps.
"""

from typing import NamedTuple

import optax

from fedjax_med.client.local_training import LocalTrainer, resume_training
from fedjax_med.core.algorithm import (
    ClientOutput,
    FederatedAlgorithm,
    Traits,
    client_output,
    optimizer_step,
)
from fedjax_med.core.types import Array, Examples, Key, Message, Params


class ServerState(NamedTuple):
    """The global model and the server optimizer's state."""

    params: Params
    optimizer: optax.OptState


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    keep_optimizer: bool = False,
) -> FederatedAlgorithm:
    """Build FedAvg: clients train the global model, the server steps along their mean change.

    Args:
        training: settings of local training.
        server_optimizer: steps against the aggregated message.
        keep_optimizer: whether a client keeps its optimizer state from round to round, instead of
            starting afresh. With one client this is training without federation.
    """

    def init(params: Params) -> tuple[ServerState, optax.OptState]:
        client = training.optimizer.init(params) if keep_optimizer else ()
        return ServerState(params, server_optimizer.init(params)), client

    def client_update(
        server: ServerState,
        client: optax.OptState,
        examples: Examples,
        round: Array,
        key: Key,
    ) -> ClientOutput:
        start = client if keep_optimizer else training.optimizer.init(server.params)
        params, state, metrics = resume_training(
            training, server.params, start, examples, key, round
        )
        return client_output(
            server.params, params, state if keep_optimizer else (), examples, metrics
        )

    def server_update(server: ServerState, message: Message) -> ServerState:
        step = optimizer_step(server_optimizer, message, server.optimizer, server.params)
        return ServerState(*step)

    traits = Traits(steps_only=True, stateless_clients=not keep_optimizer)
    return FederatedAlgorithm(init, client_update, server_update, traits=traits)
