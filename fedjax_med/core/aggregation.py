"""Aggregation of the clients' messages at the server: transforms, then one aggregator.

Both are NamedTuples of pure functions, and `chain` is closed, as in optax: transforms followed by
an aggregator are an aggregator.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fedjax_med.core.payload import Payload
from fedjax_med.core.trees import select
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import check_kind

State = Any  # a pytree of arrays


class ClientInfo(NamedTuple):
    """What the server knows about the S clients that sent messages, in the messages' order.

    Attributes:
        num_examples: float32 [S], the clients' weights; 0: the message does not count.
        client: int32 [S], index among the C clients: its row in a per-client state.
        loss: float32 [S], the global model's mean loss on its examples, if needed.
        cluster: int32 [S], the cluster whose model it updates, if the algorithm has any.
    """

    num_examples: Array
    client: Array
    loss: Array
    cluster: Array


def all_clients(weight: Array) -> ClientInfo:
    """Build the `ClientInfo` of all clients, in order, with only their weights known.

    Args:
        weight: float32 [C].
    """
    number = weight.shape[0]
    place = jnp.arange(number, dtype=jnp.int32)
    return ClientInfo(weight, place, jnp.zeros_like(weight), jnp.zeros_like(place))


class TransformInitFn(Protocol):
    """Builds the first state of a transform."""

    def __call__(self, message: Message, num_clients: int, /) -> State:
        """Build the state; per-client state has one row for each of the C clients.

        Args:
            message: of one client, zeros.
            num_clients: C, of all clients, participating or not.
        """


class TransformUpdateFn(Protocol):
    """Transforms the stacked messages of a round."""

    def __call__(
        self, messages: Message, client_info: ClientInfo, state: State, key: Key, /
    ) -> tuple[Message, State]:
        """Return the transformed messages and the new state.

        Args:
            messages: ``[S, ...]`` in every leaf.
            client_info: about their senders. Clients whose message does not count leave the state
                unchanged.
            state: after the round before.
            key: of this transform in this round.
        """


class PayloadFn(Protocol):
    """Computes what a transformed message takes on the network."""

    def __call__(self, message: Message, before: Payload, /) -> Payload:
        """Return the payload after the transform.

        Args:
            message: of one client, or its shapes.
            before: the payload of the message as it was given to the transform.
        """


class MessageTransform(NamedTuple):
    """Changes the stacked messages, ``[S, ...] -> [S, ...]`` in every leaf.

    Attributes:
        init: the first state.
        update: transforms a round's messages.
        payload: the size on the network; None: unchanged.
        across: whether the result for a client's message depends on other clients' messages (now or
            before), which voids differential privacy: it bounds each client's influence. Declare
            False where it does not.
        remembers: whether the state is what each client has not sent yet, to be added to its next
            message (error feedback).
    """

    init: TransformInitFn
    update: TransformUpdateFn
    payload: PayloadFn | None = None
    across: bool = True
    remembers: bool = False


# The identity, for a transform whose options request no change.
UNCHANGED = MessageTransform(
    lambda message, num_clients: (),
    lambda messages, client_info, state, key: (messages, state),
    across=False,
)


class AggregatorInitFn(Protocol):
    """Builds the first state of an aggregator."""

    def __call__(self, message: Message, num_clients: int, num_senders: int, /) -> State:
        """Build the state.

        Args:
            message: of one client, zeros.
            num_clients: C, of all clients, participating or not.
            num_senders: S, of the clients of each round's cohort.
        """


class AggregatorUpdateFn(Protocol):
    """Combines the stacked messages of a round into one."""

    def __call__(
        self, messages: Message, client_info: ClientInfo, state: State, key: Key, /
    ) -> tuple[Message, State]:
        """Return the aggregated message and the new state.

        Args:
            messages: ``[S, ...]`` in every leaf.
            client_info: about their senders. A message of 0 examples does not count, whatever it
                holds; if no message counts, the result is zero.
            state: after the round before.
            key: of this aggregator in this round.
        """


class Mechanism(NamedTuple):
    """What the account of an aggregator's differential privacy depends on.

    Attributes:
        noise_multiplier: standard deviation of the noise over sensitivity.
        participation_rate: the probability that a client participates, for which it was built.
    """

    noise_multiplier: float
    participation_rate: float


class Aggregator(NamedTuple):
    """Combines the stacked messages into one, ``[S, ...] -> [...]`` in every leaf.

    Attributes:
        init: the first state.
        update: aggregates a round's messages.
        needs_loss: whether it needs `ClientInfo.loss`, for which each client evaluates the global
            model.
        is_private: whether the result is already differentially private, noise included.
        min_clients: the number of clients that its guarantee needs, in each cluster.
        is_robust: whether it is made for hostile messages. A round then skips updates that are not
            finite, as with `Participation.skip_invalid`, and the aggregator must leave out messages
            with a NaN or an infinity, which a transform may make.
        chained: the transforms and the aggregator that `chain` combined; None: not from `chain`.
        mechanism: of a private aggregator; None: not private, or not declared.
    """

    init: AggregatorInitFn
    update: AggregatorUpdateFn
    needs_loss: bool = False
    is_private: bool = False
    min_clients: int = 1
    chained: tuple[tuple[MessageTransform, ...], Any] | None = None
    mechanism: Mechanism | None = None
    is_robust: bool = False


def chain(*transforms: MessageTransform, aggregator: Aggregator) -> Aggregator:
    """Build the aggregator that applies `transforms` in order and then `aggregator`.

    Each part gets its own key.

    Raises:
        UserError: A part is of another kind, such as a ``build`` that was not called.
    """
    for transform in transforms:
        check_kind("a transform", transform, MessageTransform)
    check_kind("the aggregator", aggregator, Aggregator)
    if not transforms:
        return aggregator

    def init(message: Message, num_clients: int, num_senders: int) -> State:
        states = [transform.init(message, num_clients) for transform in transforms]
        return (*states, aggregator.init(message, num_clients, num_senders))

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        keys = jax.random.split(key, len(transforms) + 1)
        messages, states = transformed(transforms, messages, client_info, state[:-1], keys)
        message, last = aggregator.update(messages, client_info, state[-1], keys[-1])
        return message, (*states, last)

    return aggregator._replace(init=init, update=update, chained=(transforms, aggregator))


def transformed(
    transforms: tuple[MessageTransform, ...],
    messages: Message,
    client_info: ClientInfo,
    states: tuple[State, ...],
    keys: Key,
) -> tuple[Message, tuple[State, ...]]:
    """Apply the transforms in order; return what is sent, and the transforms' new states.

    Args:
        transforms: of a `chain`.
        messages: ``[S, ...]`` in every leaf.
        client_info: about their senders.
        states: one for each transform.
        keys: one for each transform, and the aggregator's.
    """
    after = []
    for index, transform in enumerate(transforms):
        messages, new = transform.update(messages, client_info, states[index], keys[index])
        after.append(new)
    return messages, tuple(after)


def per_cluster(aggregator: Aggregator, num_clusters: int) -> Aggregator:
    """Build the aggregator that aggregates the messages of each cluster separately.

    Args:
        aggregator: the aggregator of one cluster. Its chained transforms see all messages together.
        num_clusters: G; 0 means no clusters, and returns `aggregator` itself.

    Returns:
        An aggregator whose messages and states are stacked, ``[G, ...]`` in every leaf. A cluster
        without a client that counts gets a zero message and keeps its state.
    """
    if not num_clusters:
        return aggregator
    if aggregator.chained is not None:
        transforms, last = aggregator.chained
        return chain(*transforms, aggregator=per_cluster(last, num_clusters))

    def init(message: Message, num_clients: int, num_senders: int) -> State:
        state = aggregator.init(message, num_clients, num_senders)
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * num_clusters), state)

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        def one(cluster: Array, state: State, key: Key) -> tuple[Message, State]:
            members = client_info.cluster == cluster
            num_examples = jnp.where(members, client_info.num_examples, 0)
            own = client_info._replace(num_examples=num_examples)
            message, new = aggregator.update(messages, own, state, key)
            some = jnp.any(num_examples > 0)
            return message, select(some, new, state)

        keys = jax.random.split(key, num_clusters)
        return jax.vmap(one)(jnp.arange(num_clusters), state, keys)

    return aggregator._replace(init=init, update=update)
