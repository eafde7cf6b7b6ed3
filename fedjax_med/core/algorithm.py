"""A federated algorithm as pure functions, and the state carried from round to round."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.types import Array, Examples, Key, Message, Metrics, Params

ServerState = Any  # a pytree of arrays with a field `params`
ClientState = Any  # a pytree of arrays


class ClientOutput(NamedTuple):
    """The result of one client's round.

    Attributes:
        update: leaves the client.
        state: stays at the client.
        num_examples: float32 []; the client's weight.
        metrics: for reports, and for `FederatedAlgorithm.process_updates`.
        cluster: int32 [], the cluster whose model it updates, if the algorithm has any.
    """

    update: Message
    state: ClientState
    num_examples: Array
    metrics: Metrics
    cluster: Any = 0


class Traits(NamedTuple):
    """Properties of an algorithm that other modules rely on, declared by the algorithm.

    Attributes:
        steps_only: whether a client uses its examples only in its local steps, whose number is the
            one that differential privacy accounts for.
        stateless_clients: whether a client's update does not depend on earlier rounds, so that
            sampling clients amplifies privacy.
        supports_ema: whether the server's model can be averaged over rounds.
        resends: whether a client itself sends again what did not arrive (by `AfterSendingFn`), so
            that no transform may keep it for later: it would arrive twice.
        header_bits: bits that a client adds to a message that went through transforms, such as what
            it starts from.
    """

    steps_only: bool = False
    stateless_clients: bool = False
    supports_ema: bool = True
    resends: bool = False
    header_bits: int = 0


class InitFn(Protocol):
    """Builds the initial states of the server and of ONE client."""

    def __call__(self, params: Params, /) -> tuple[ServerState, ClientState]:
        """Build both states from the initial global parameters; the client's may be ()."""


class ClientUpdateFn(Protocol):
    """Computes one client's round; mapped over all clients, it never sees another one."""

    def __call__(
        self,
        server: ServerState,
        client: ClientState,
        examples: Examples,
        round: Array,
        key: Key,
        /,
    ) -> ClientOutput:
        """Compute what the client sends and keeps.

        Args:
            server: the server's state; the client may use what `DownloadFn` sends of it.
            client: the client's own state.
            examples: the client's, ``[N]``, with padding where ``mask`` is False.
            round: int32 [], the number of completed rounds.
            key: the client's own in this round.
        """


class ServerUpdateFn(Protocol):
    """Computes the server's step of a round."""

    def __call__(self, server: ServerState, message: Message, /) -> ServerState:
        """Return the server's new state.

        Args:
            server: the state before the round.
            message: the aggregated update; ``[G, ...]`` in every leaf with G clusters.
        """


class PersonalParamsFn(Protocol):
    """Returns the personal model that a client uses and is evaluated with."""

    def __call__(self, server: ServerState, client: ClientState, /) -> Params:
        """Return the parameters of ONE client's model."""


class ProcessUpdatesFn(Protocol):
    """Processes the individual updates at the server, before they are aggregated."""

    def __call__(
        self, server: ServerState, outputs: ClientOutput, /
    ) -> tuple[ServerState, ClientState]:
        """Return the server's new state and the new client states, ``[S, ...]``.

        Args:
            server: the state before the round.
            outputs: of the cohort's clients, ``[S, ...]`` in every leaf. Clients that do not count
                have 0 examples and a zero update.
        """


class AfterSendingFn(Protocol):
    """Tells a client what its message became in the transforms, and lets it keep account of that.

    The client calls it after its transforms, in a round in which its message counts. So a state
    that the server follows by the messages, such as SCAFFOLD's control, stays what it believes.
    """

    def __call__(
        self, client: ClientState, message: Message, sent: Message, /
    ) -> tuple[Message, ClientState]:
        """Return what ONE client sends in the end, and its new state.

        Args:
            client: the state that `ClientUpdateFn` returned.
            message: as it returned it.
            sent: after the transforms. The client may scale parts of it, no more: what transforms
                guarantee (zeros, levels, norms) must still hold.
        """


class ReceivedFn(Protocol):
    """Gives the message that the server makes of what a client sent, before the aggregator.

    For clients that send less than the message, such as its difference to something known.
    """

    def __call__(self, server: ServerState, client: ClientState, sent: Message, /) -> Message:
        """Return ONE client's message for the aggregator.

        Args:
            server: the state before the round.
            client: the state that `AfterSendingFn` returned. Only what the server can follow by the
                client's messages may be used of it.
            sent: what `AfterSendingFn` returned.
        """


class DownloadFn(Protocol):
    """Selects what the server sends to a client each round."""

    def __call__(self, server: ServerState, client: ClientState, /) -> Any:
        """Return a pytree of the arrays that are sent to ONE client."""


class FederatedAlgorithm(NamedTuple):
    """An algorithm as three pure functions, with optional hooks that few algorithms need.

    Attributes:
        init: the initial states of the server and of one client.
        client_update: one client's round.
        server_update: the server's step on the aggregated update.
        personal_params: the client's personal model; None: all clients use the server's.
        num_clusters: G, the number of clusters, each with its own model; updates are aggregated per
            cluster. 0: no clusters.
        process_updates: processes individual updates; None: the server sees only their aggregate.
        download: what a client receives each round; None: the server's parameters.
        after_sending: what a client does after its transforms; None: nothing.
        received: what the server makes of a message after `after_sending`; None: it stays as sent.
        traits: properties that other modules rely on.
    """

    init: InitFn
    client_update: ClientUpdateFn
    server_update: ServerUpdateFn
    personal_params: PersonalParamsFn | None = None
    num_clusters: int = 0
    process_updates: ProcessUpdatesFn | None = None
    download: DownloadFn | None = None
    traits: Traits = Traits()
    after_sending: AfterSendingFn | None = None
    received: ReceivedFn | None = None


class FederatedState(NamedTuple):
    """Everything that the next round needs; also the content of a checkpoint.

    Attributes:
        round: int32 [], the number of completed rounds.
        server: the algorithm's server state, with a field ``params``, the global model.
        clients: [C, ...] in every leaf.
        aggregator: the state of the aggregator and its transforms.
    """

    round: Array
    server: ServerState
    clients: ClientState
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
