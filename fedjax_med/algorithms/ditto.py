"""Ditto (Li et al., ICML 2021, "Fair and Robust Federated Learning Through Personalization").

Beside the global model, which is FedAvg's, each client trains a model of its own that is pulled to
the global one. What a hostile client does to the global model reaches the others by that pull only.
"""

from typing import NamedTuple

import jax
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.algorithms.fed_avg import ServerState
from fedjax_med.client.local_training import LocalTraining, go_on
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Metrics, Params
from fedjax_med.errors import UserError


class ClientState(NamedTuple):
    """A client's own model, and what its optimizer remembers."""

    params: Params
    optimizer: optax.OptState


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    weight: float = 0.1,
    epochs: int = 0,
) -> FedAlgorithm:
    """FedAvg, and clients that train their own model on ``loss + weight / 2 * |own - global|^2``.

    The own model sees the same batches as the global one, and the pull is to the global model that
    the client was sent. Its optimizer goes on from round to round, as the model does: with the
    weight 0 it is the model of a client that trains alone.

    Args:
        training: how a client trains, both models.
        server_optimizer: steps against the reduced message.
        weight: lambda of the paper, at least 0; with plain gradient descent the learning rate times
            the weight should stay below 1.
        epochs: passes over the client's examples for its own model; 0: as many as for the global.

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
    ) -> ClientResult:
        def pulled(own: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
            gradient, metrics = training.grad_fn(own, batch, key)
            pull = jax.tree.map(lambda a, b: weight * (a - b), own, server.params)
            return optax.tree.add(gradient, pull), metrics

        result = shared.client_update(server, (), examples, round, key)
        of_own = training._replace(grad_fn=pulled, epochs=epochs or training.epochs)
        own, memory, _ = go_on(of_own, *client, examples, key, round)
        return result._replace(state=ClientState(own, memory))

    def personal(server: ServerState, client: ClientState) -> Params:
        del server
        return client.params

    return FedAlgorithm(init, client_update, shared.server_update, personal=personal)
