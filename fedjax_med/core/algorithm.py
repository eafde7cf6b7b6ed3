"""A federated algorithm as pure functions, and the state carried from round to round."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.types import Array, Examples, Key, Message, Metrics, Params

ServerState = Any  # a pytree of arrays with a field `params`
ClientState = Any  # a pytree of arrays


class ClientOutput(NamedTuple):
    """The result of one client's round."""

    update: Message  # leaves the client
    state: ClientState  # stays at the client
    num_examples: Array  # float32 []; the client's weight
    metrics: Metrics  # for reports, and for `FederatedAlgorithm.process_updates`
    cluster: Any = 0  # int32 [], the cluster whose model it updates, if the algorithm has any


class Traits(NamedTuple):
    """Properties of an algorithm that other modules rely on, declared by the algorithm.

    steps_only: whether a client uses its examples only in its local steps, whose number is the one
        that differential privacy accounts for.
    stateless_clients: whether a client's update does not depend on earlier rounds, so that sampling
        clients amplifies privacy.
    supports_ema: whether the server's model can be averaged over rounds.
    """

    steps_only: bool = False
    stateless_clients: bool = False
    supports_ema: bool = True


class FederatedAlgorithm(NamedTuple):
    """An algorithm as three pure functions, with optional hooks that few algorithms need.

    init: ``params -> (server state, state of ONE client)``.
    client_update: ``(server state, client state, examples [N], round [], key) -> ClientOutput``.
    server_update: ``(server state, aggregated update) -> server state``.
    personal_params: ``(server state, state of ONE client) -> params``, the personal model
        that the client uses and is evaluated with; None: all use the server's.
    num_clusters: G, the number of clusters, each with its own model; updates are aggregated per
        cluster, and ``server_update`` gets ``[G, ...]``. 0: no clusters.
    process_updates: ``(server state, ClientOutput [S, ...]) -> (server state, client states [S,
        ...])``, how the server processes the individual updates before aggregation; None: it
        does not. Clients that do not count have 0 examples and a zero update.
    download: ``(server state, state of ONE client) -> pytree``, sent to a client each round; None:
        the server's parameters.
    traits: properties that other modules rely on.
    """

    init: Callable[[Params], tuple[ServerState, ClientState]]
    client_update: Callable[[ServerState, ClientState, Examples, Array, Key], ClientOutput]
    server_update: Callable[[ServerState, Message], ServerState]
    personal_params: Callable[[ServerState, ClientState], Params] | None = None
    num_clusters: int = 0
    process_updates: (
        Callable[[ServerState, ClientOutput], tuple[ServerState, ClientState]] | None
    ) = None
    download: Callable[[ServerState, ClientState], Any] | None = None
    traits: Traits = Traits()


class FederatedState(NamedTuple):
    """Everything that the next round needs; also the content of a checkpoint."""

    round: Array  # int32 [], the number of completed rounds
    server: ServerState
    clients: ClientState  # [C, ...] in every leaf
    aggregator: Any


# Selects a round's clients: `(key, number of examples per client int [C]) -> indices int32 [S]`,
# all different and in ascending order.
Cohort = Callable[[Key, Array], Array]

LOSS_BEFORE = "loss_before"  # a client's metric: the global model's mean loss on its examples


def client_output(
    start: Params,
    trained: Params,
    state: ClientState,
    examples: Examples,
    metrics: Metrics,
    cluster: Any = 0,
) -> ClientOutput:
    """Build a client's output from its trained parameters.

    The update is the pseudo-gradient `start` - `trained` (Reddi et al., ICLR 2021), so that the
    server can use any optimizer; the client's weight is its number of examples.

    Args:
        start: the parameters that the client received.
        trained: the parameters after training.
        state: the client's new state, which stays at the client.
        examples: the client's, [N], padding included.
        metrics: metrics of the training.
        cluster: int32 [], the cluster whose model was trained.
    """
    update = jax.tree.map(jnp.subtract, start, trained)
    num_examples = jnp.sum(examples.mask, dtype=jnp.float32)
    return ClientOutput(update, state, num_examples, metrics, cluster)


def optimizer_step(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    state: optax.OptState,
    params: Params,
) -> tuple[Params, optax.OptState]:
    """Step `params` against `gradient`; return the new parameters and optimizer state."""
    updates, new = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), new


def message_of(
    algorithm: FederatedAlgorithm, server: ServerState, client: ClientState, data: Examples
) -> Message:
    """Give the shapes and dtypes of one client's update, from those of stacked `data` [C, N]."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), data)
    number, key = jnp.int32(0), jax.random.key(0)
    return jax.eval_shape(algorithm.client_update, server, client, one, number, key).update
