"""FedNova (Wang et al., NeurIPS 2020): updates are normalised by the clients' local work.

With FedAvg a client that takes more steps weighs more, and the model converges to the minimum of
another objective. Here the message is the client's mean direction only; the server takes the mean
direction times the mean step weight, which follows from the clients' numbers of steps. Transforms
and aggregators therefore see norms of a single step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm, Traits, optimizer_step
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError


class ServerState(NamedTuple):
    """The global model, the server optimizer's state, and this round's mean step weight."""

    params: Params
    optimizer: optax.OptState
    effort: Array  # float32 []


def build(
    training: LocalTrainer, server_optimizer: optax.GradientTransformation
) -> FederatedAlgorithm:
    """Build FedAvg whose client weights do not depend on the number of local steps.

    Args:
        training: settings of local training, with ``sgd``; other optimizers are normalised by
            their number of steps, as if they were ``sgd``.
        server_optimizer: steps against the mean direction times the mean step weight.

    Raises:
        UserError: At the first round, if the trainer does not know the weight of its steps.
    """
    average = fed_avg.build(training, server_optimizer)

    def init(params: Params) -> tuple[ServerState, tuple[()]]:
        return ServerState(params, server_optimizer.init(params), jnp.float32(0)), ()

    def client_update(
        server: ServerState, client: tuple[()], examples: Examples, round: Array, key: Key
    ) -> ClientOutput:
        result = average.client_update(server, client, examples, round, key)
        # Without a step the difference is zero; the direction must be zero, too, not NaN.
        divisor = jnp.maximum(_weight(training, result.metrics["steps"]), 1)
        direction = jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), result.update)
        return result._replace(update=direction)

    def process_updates(
        server: ServerState, results: ClientOutput
    ) -> tuple[ServerState, tuple[()]]:
        efforts = _weight(training, results.metrics["steps"])
        share = results.num_examples / jnp.maximum(jnp.sum(results.num_examples), 1e-12)
        return server._replace(effort=jnp.sum(share * efforts)), results.state

    def server_update(server: ServerState, message: Message) -> ServerState:
        scaled = jax.tree.map(lambda leaf: leaf * server.effort.astype(leaf.dtype), message)
        step = optimizer_step(server_optimizer, scaled, server.optimizer, server.params)
        return ServerState(*step, server.effort)

    return FederatedAlgorithm(
        init,
        client_update,
        server_update,
        process_updates=process_updates,
        traits=Traits(steps_only=True),
    )


def _weight(training: LocalTrainer, steps: Array) -> Array:
    """Return the total gradient weight of so many local steps."""
    if training.step_weight is None:
        raise UserError(
            "fed_nova divides by the weight of the local steps, which depends on the clients' "
            "optimizer: give the LocalTrainer "
            "step_weight=fedjax_med.client.sgd_step_weight(momentum)."
        )
    return training.step_weight(steps)
