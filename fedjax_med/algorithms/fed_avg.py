"""Federated averaging (McMahan et al., AISTATS 2017), with any server optimizer.

The message is the pseudo-gradient, global - local, so every optax optimizer is a server
optimizer (Reddi et al., ICLR 2021, "Adaptive Federated Optimization"): ``sgd`` with learning rate 1
is FedAvg, with momentum FedAvgM, and ``adam``, ``yogi``, ``adagrad`` are FedAdam, FedYogi,
FedAdagrad.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.client.local_training import LocalTraining, go_on
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params


class ServerState(NamedTuple):
    """The global model, and what the server optimizer remembers."""

    params: Params
    optimizer: optax.OptState


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    keep_optimizer: bool = False,
) -> FedAlgorithm:
    """Clients train from the global model; the server steps along the mean of their differences.

    Args:
        training: how a client trains.
        server_optimizer: steps against the reduced message.
        keep_optimizer: whether what a client's optimizer remembers stays with the client from round
            to round; otherwise it starts anew. With one client this is training without federation.
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
    ) -> ClientResult:
        start = client if keep_optimizer else training.optimizer.init(server.params)
        params, state, metrics = go_on(training, server.params, start, examples, key, round)
        delta = jax.tree.map(jnp.subtract, server.params, params)
        weight = jnp.sum(examples.mask, dtype=jnp.float32)
        return ClientResult(delta, state if keep_optimizer else (), weight, metrics)

    def server_update(server: ServerState, message: Message) -> ServerState:
        updates, state = server_optimizer.update(message, server.optimizer, server.params)
        return ServerState(optax.apply_updates(server.params, updates), state)

    return FedAlgorithm(init, client_update, server_update)
