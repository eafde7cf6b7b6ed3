"""FedProx (Li et al., MLSys 2020): a proximal term keeps the clients near the global model."""

import functools

import jax
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params
from fedjax_med.errors import UserError


def held(grad_fn: GradFn, center: Params, mu: float) -> GradFn:
    """Add mu / 2 * (l2 distance to `center`)^2 to the loss of `grad_fn`, but not to its metrics."""

    @functools.wraps(grad_fn)
    def gradient(params: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
        free, metrics = grad_fn(params, batch, key)
        return jax.tree.map(lambda g, p, q: g + mu * (p - q), free, params, center), metrics

    return gradient


def build(
    training: LocalTrainer, server_optimizer: optax.GradientTransformation, *, mu: float = 0.01
) -> FederatedAlgorithm:
    """Build FedAvg whose clients minimise their loss + mu / 2 * (distance to the global model)^2.

    Args:
        training: settings of local training.
        server_optimizer: steps against the aggregated message.
        mu: at least 0; 0 is FedAvg. The paper tries 0.001 to 1.

    Raises:
        UserError: `mu` is negative.
    """
    if not mu >= 0:
        raise UserError(f"expected algorithm fed_prox to have mu >= 0, got mu={mu}.")

    def client_update(
        server: fed_avg.ServerState, client: tuple[()], examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        grad_fn = held(training.grad_fn, server.params, mu)
        proximal = fed_avg.build(training._replace(grad_fn=grad_fn), server_optimizer)
        return proximal.client_update(server, client, examples, round, key)

    return fed_avg.build(training, server_optimizer)._replace(client_update=client_update)
