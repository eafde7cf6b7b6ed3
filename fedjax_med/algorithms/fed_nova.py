"""FedNova (Wang et al., NeurIPS 2020): differences are normalised by the clients' own work.

With FedAvg a client that takes more steps weighs more, and the model settles where the objective is
another than the one asked for. Here the message is the client's mean direction alone; how often it
was added up follows from the client's number of steps, and the server takes the mean direction
times the mean number. A norm that a transform or a reducer looks at is then that of one step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTraining
from fedjax_med.core.round import ClientResult, FedAlgorithm
from fedjax_med.core.types import Array, Examples, Key, Message, Params
from fedjax_med.errors import UserError


class ServerState(NamedTuple):
    """The global model, what the server optimizer remembers, and this round's mean effort."""

    params: Params
    optimizer: optax.OptState
    effort: Array  # float32 []


def _effort(steps: Array, momentum: float) -> Array:
    """The l1 norm of a_i in the paper, K for K steps of plain SGD: float32, like `steps`."""
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

    def init(params: Params) -> tuple[ServerState, tuple[()]]:
        return ServerState(params, server_optimizer.init(params), jnp.float32(0)), ()

    def client_update(
        server: ServerState, client: tuple[()], examples: Examples, round: Array, key: Key
    ) -> ClientResult:
        result = average.client_update(server, client, examples, round, key)
        # Without a step the difference is zero, and so shall the direction be.
        divisor = jnp.maximum(_effort(result.metrics["steps"], momentum), 1)
        direction = jax.tree.map(lambda leaf: leaf / divisor.astype(leaf.dtype), result.message)
        return result._replace(message=direction)

    def receive(server: ServerState, results: ClientResult) -> tuple[ServerState, tuple[()]]:
        efforts = _effort(results.metrics["steps"], momentum)
        share = results.weight / jnp.maximum(jnp.sum(results.weight), 1e-12)
        return server._replace(effort=jnp.sum(share * efforts)), results.state

    def server_update(server: ServerState, message: Message) -> ServerState:
        scaled = jax.tree.map(lambda leaf: leaf * server.effort.astype(leaf.dtype), message)
        updates, state = server_optimizer.update(scaled, server.optimizer, server.params)
        return ServerState(optax.apply_updates(server.params, updates), state, server.effort)

    return FedAlgorithm(init, client_update, server_update, receive=receive)
