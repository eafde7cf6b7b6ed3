"""Ditto (Li et al., ICML 2021, "Fair and Robust Federated Learning Through Personalization").

Besides the global model, which is FedAvg's, each client trains a model of its own that is pulled
towards the global one. A hostile client affects the others' own models through that pull only.
"""

import functools
from typing import NamedTuple

import jax
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.algorithms.fed_avg import ServerState
from fedjax_med.client.local_training import LocalTrainer, resume_training
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Metrics, Params
from fedjax_med.errors import UserError


class ClientState(NamedTuple):
    """A client's own model and its optimizer state."""

    params: Params
    optimizer: optax.OptState


def build(
    training: LocalTrainer,
    server_optimizer: optax.GradientTransformation,
    *,
    weight: float = 0.1,
    epochs: int = 0,
) -> FederatedAlgorithm:
    """Build FedAvg, with own models trained on ``loss + weight / 2 * |own - global|^2``.

    The own model sees the same batches as the global one, and is pulled towards the global model
    that the client received. It and its optimizer state are kept from round to round: with weight
    0 it is a model trained by this client alone.

    Args:
        training: settings of local training, for both models.
        server_optimizer: steps against the aggregated message.
        weight: lambda of the paper, at least 0; with plain gradient descent, learning rate times
            weight should stay below 1.
        epochs: epochs of the own model in a round; 0: as many as for the global model.

    Raises:
        UserError: `weight` or `epochs` is negative.
    """
    if not (weight >= 0 and epochs >= 0):
        raise UserError(
            "expected algorithm ditto to have weight >= 0 and epochs >= 0, got "
            f"weight={weight} and epochs={epochs}."
        )
    shared = fed_avg.build(training, server_optimizer)

    def init(params: Params) -> tuple[ServerState, ClientState]:
        return shared.init(params)[0], ClientState(params, training.optimizer.init(params))

    def client_update(
        server: ServerState, client: ClientState, examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        @functools.wraps(training.grad_fn)
        def pulled(own: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
            gradient, metrics = training.grad_fn(own, batch, key)
            pull = jax.tree.map(lambda a, b: weight * (a - b), own, server.params)
            return optax.tree.add(gradient, pull), metrics

        result = shared.client_update(server, (), examples, round, key)
        of_own = training._replace(grad_fn=pulled, epochs=epochs or training.epochs)
        own, memory, _ = resume_training(of_own, *client, examples, key, round)
        return result._replace(state=ClientState(own, memory))

    def personal_params(server: ServerState, client: ClientState) -> Params:
        del server
        return client.params

    return FederatedAlgorithm(
        init, client_update, shared.server_update, personal_params=personal_params
    )
