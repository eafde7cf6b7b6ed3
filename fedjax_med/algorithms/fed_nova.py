"""FedNova (Wang et al., NeurIPS 2020): differences are normalised by the clients' own work.

With FedAvg a client that takes more steps weighs more, and the model settles where the objective is
another than the one asked for. Here the message is the client's mean direction and how often it was
added up; the server takes the mean direction times the mean number.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.errors import UserError
from fedjax_med.federated import ClientResult, FedAlgorithm
from fedjax_med.local import LocalTraining
from fedjax_med.types import Array, Examples, Key, Message


class Normalised(NamedTuple):
    """What a client sends."""

    direction: Message  # global - local, divided by `effort`
    effort: Array  # float32 [], the l1 norm of a_i in the paper: K for K steps of plain SGD


def _effort(steps: Array, momentum: float) -> Array:
    """How often a gradient goes into the difference, over `steps` steps: float32 []."""
    left = steps - momentum * (1 - momentum**steps) / (1 - momentum)
    return left / (1 - momentum)


def build(
    training: LocalTraining,
    server_optimizer: optax.GradientTransformation,
    *,
    momentum: float = 0.0,
) -> FedAlgorithm:
    """FedAvg whose clients count the same however many steps they take.

    Args:
        training: how a client trains, with ``sgd``; other optimizers are normalised by their number
            of steps as if they were.
        server_optimizer: steps against the mean direction times the mean effort.
        momentum: that of the client's ``sgd``, in [0, 1).

    Raises:
        UserError: `momentum` is outside its range.
    """
    if not 0 <= momentum < 1:
        raise UserError(
            f"expected algorithm fed_nova to have 0 <= momentum < 1, got momentum={momentum}."
        )
    average = fed_avg.build(training, server_optimizer)

    def client_update(
        server: fed_avg.ServerState, client: tuple[()], examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        result = average.client_update(server, client, examples, round, key)
        effort = _effort(result.metrics["steps"], momentum)
        # Without a step the difference is zero, and so shall the direction be.
        divisor = jnp.maximum(effort, 1)
        direction = jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), result.message)
        return result._replace(message=Normalised(direction, effort))

    def server_update(server: fed_avg.ServerState, message: Message) -> fed_avg.ServerState:
        scaled = jax.tree.map(
            lambda leaf: leaf * message.effort.astype(leaf.dtype), message.direction
        )
        new: fed_avg.ServerState = average.server_update(server, scaled)
        return new

    return average._replace(client_update=client_update, server_update=server_update)
