"""Aggregation of the clients' messages at the server: transforms, then one aggregator.

Both are NamedTuples of pure functions, and `chain` is closed, as in optax: transforms followed by
an aggregator are an aggregator.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_med.core.payload import Payload
from fedjax_med.core.trees import select
from fedjax_med.core.types import Array, Key, Message

State = Any  # a pytree of arrays


class ClientInfo(NamedTuple):
    """What the server knows about the S clients that sent messages, in the messages' order."""

    num_examples: Array  # float32 [S], the clients' weights; 0: the message does not count
    client: Array  # int32 [S], index among the C clients: its row in a per-client state
    loss: Array  # float32 [S], the global model's mean loss on its examples, if needed
    cluster: Array  # int32 [S], the cluster whose model it updates, if the algorithm has any


def all_clients(weight: Array) -> ClientInfo:
    """Build the `ClientInfo` of all clients, in order, with only their weights known.

    Args:
        weight: float32 [C].
    """
    number = weight.shape[0]
    place = jnp.arange(number, dtype=jnp.int32)
    return ClientInfo(weight, place, jnp.zeros_like(weight), jnp.zeros_like(place))


class MessageTransform(NamedTuple):
    """Changes the stacked messages, ``[S, ...] -> [S, ...]`` in every leaf.

    init: ``(message of one client, num_clients C) -> state``; per-client state has one row for
        each of the C clients.
    update: ``(messages, client_info, state, key) -> (messages, state)``. Clients whose
        message does not count leave the state unchanged.
    payload: ``(message of one client, payload before) -> payload after``; None: unchanged.
    across: whether the result for a client's message depends on other clients' messages (now or
        before), which voids differential privacy: it bounds each client's influence.
    """

    init: Callable[[Message, int], State]
    update: Callable[[Message, ClientInfo, State, Key], tuple[Message, State]]
    payload: Callable[[Message, Payload], Payload] | None = None
    across: bool = False


# The identity, for a transform whose options request no change.
UNCHANGED = MessageTransform(
    lambda message, num_clients: (), lambda messages, client_info, state, key: (messages, state)
)


class Aggregator(NamedTuple):
    """Combines the stacked messages into one, ``[S, ...] -> [...]`` in every leaf.

    init: ``(message of one client, num_clients C, num_senders S) -> state``.
    update: ``(messages, client_info, state, key) -> (message, state)``. A message of weight 0
        does not count, whatever it holds; if no message counts, the result is zero.
    needs_loss: whether it needs `ClientInfo.loss`, for which each client evaluates the global
        model.
    is_private: whether the result is already differentially private, noise included.
    min_clients: the number of clients that its guarantee needs, in each cluster.
    chained: the transforms and the aggregator that `chain` combined; None: not from `chain`.
    """

    init: Callable[[Message, int, int], State]
    update: Callable[[Message, ClientInfo, State, Key], tuple[Message, State]]
    needs_loss: bool = False
    is_private: bool = False
    min_clients: int = 1
    chained: tuple[tuple[MessageTransform, ...], Any] | None = None


def chain(*transforms: MessageTransform, aggregator: Aggregator) -> Aggregator:
    """Build the aggregator that applies `transforms` in order and then `aggregator`.

    Each part gets its own key.
    """
    if not transforms:
        return aggregator

    def init(message: Message, num_clients: int, num_senders: int) -> State:
        states = [transform.init(message, num_clients) for transform in transforms]
        return (*states, aggregator.init(message, num_clients, num_senders))

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        keys = jax.random.split(key, len(transforms) + 1)
        states = []
        for index, transform in enumerate(transforms):
            messages, new = transform.update(messages, client_info, state[index], keys[index])
            states.append(new)
        message, last = aggregator.update(messages, client_info, state[-1], keys[-1])
        return message, (*states, last)

    return aggregator._replace(init=init, update=update, chained=(transforms, aggregator))


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
