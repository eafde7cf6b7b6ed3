"""What happens to the clients' messages on their way to the server: transforms, then one reducer.

Both are pure functions in a NamedTuple, and `chain` is closed: transforms with a reducer are again
a reducer, as in optax.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_med.core.types import Array, Key, Message

State = Any  # a pytree of arrays


class Senders(NamedTuple):
    """What the server knows of the S clients whose messages it has, in the messages' order."""

    weight: Array  # float32 [S], the number of examples; 0: sent nothing that counts
    place: Array  # int32 [S], which of the C clients each is: its row in a state with one for each
    loss: Array  # float32 [S], the global model's mean loss on its examples, if `Reducer.informed`
    group: Array  # int32 [S], whose model the message is for, if the algorithm has groups


def senders(weight: Array) -> Senders:
    """All clients, in their order, of whom nothing but their weights is known.

    Args:
        weight: float32 [C].
    """
    number = weight.shape[0]
    place = jnp.arange(number, dtype=jnp.int32)
    return Senders(weight, place, jnp.zeros_like(weight), jnp.zeros_like(place))


SEED_BITS = 64  # of a random key, where it is sent


class Wire(NamedTuple):
    """What the message of one client takes on the network."""

    values: int  # numbers that are sent
    bits: float  # of each number
    extra: int = 0  # bits beside them: positions, scales, seeds
    rotated: bool = False  # whether the numbers are not the message's values, which they give

    @property
    def num_bytes(self) -> int:
        """Rounded up."""
        return int(-(-(self.values * self.bits + self.extra) // 8))


def plain(message: Any) -> Wire:
    """What `message` (arrays or shapes) takes as it is."""
    leaves = jax.tree.leaves(message)
    values = sum(leaf.size for leaf in leaves)
    bits = sum(8 * leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return Wire(values, bits / max(values, 1))


class MessageTransform(NamedTuple):
    """Changes the stacked messages, ``[S, ...] -> [S, ...]`` in every leaf.

    init: ``(message of one client, num_clients C) -> state``; what is remembered of each client has
        a row for each of the C.
    update: ``(messages, senders, state, key) -> (messages, state)``. Clients that sent nothing that
        counts leave the state as it is.
    wire: ``(message of one client, what it took before) -> what it takes after``; None: the same.
    across: whether what becomes of a client's message depends on the messages of others (now or
        before), so that differential privacy, which bounds each client's influence, is void.
    """

    init: Callable[[Message, int], State]
    update: Callable[[Message, Senders, State, Key], tuple[Message, State]]
    wire: Callable[[Message, Wire], Wire] | None = None
    across: bool = False


# Messages stay as they are: what a transform is whose options ask for no change.
UNCHANGED = MessageTransform(
    lambda message, num_clients: (), lambda messages, senders, state, key: (messages, state)
)


class Reducer(NamedTuple):
    """Makes one message of the stacked ones, ``[S, ...] -> [...]`` in every leaf.

    init: ``(message of one client, num_clients C, num_senders S) -> state``.
    update: ``(messages, senders, state, key) -> (message, state)``. A client of weight 0 sent
        nothing that counts, whatever its message holds; if no client counts, the message is zero.
    informed: whether it needs `Senders.loss`, for which each client evaluates the global model.
    private: whether the message is differentially private by itself, noise included.
    least: how many clients its promise needs, in each group.
    chained: the transforms and the reducer that it was made of, if by `chain`.
    """

    init: Callable[[Message, int, int], State]
    update: Callable[[Message, Senders, State, Key], tuple[Message, State]]
    informed: bool = False
    private: bool = False
    least: int = 1
    chained: tuple[tuple[MessageTransform, ...], Any] | None = None


def chain(*transforms: MessageTransform, reducer: Reducer) -> Reducer:
    """The reducer that applies `transforms` in order and then `reducer`.

    Each part gets a key of its own.
    """
    if not transforms:
        return reducer

    def init(message: Message, num_clients: int, num_senders: int) -> State:
        states = [transform.init(message, num_clients) for transform in transforms]
        return (*states, reducer.init(message, num_clients, num_senders))

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        keys = jax.random.split(key, len(transforms) + 1)
        states = []
        for index, transform in enumerate(transforms):
            messages, new = transform.update(messages, senders, state[index], keys[index])
            states.append(new)
        message, last = reducer.update(messages, senders, state[-1], keys[-1])
        return message, (*states, last)

    return reducer._replace(init=init, update=update, chained=(transforms, reducer))


def grouped(reducer: Reducer, groups: int) -> Reducer:
    """The reducer that reduces the messages of each group by themselves.

    Args:
        reducer: of one group.
        groups: G; 0 is no groups, and then the reducer itself. Transforms before it see all
            messages together.

    Returns:
        A reducer whose messages and states are stacked, ``[G, ...]`` in every leaf. A group without
        a client that counts has the message zero, and its state stays.
    """
    if not groups:
        return reducer
    if reducer.chained is not None:
        transforms, last = reducer.chained
        return chain(*transforms, reducer=grouped(last, groups))

    def init(message: Message, num_clients: int, num_senders: int) -> State:
        state = reducer.init(message, num_clients, num_senders)
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * groups), state)

    def update(
        messages: Message, senders: Senders, state: State, key: Key
    ) -> tuple[Message, State]:
        def one(group: Array, state: State, key: Key) -> tuple[Message, State]:
            weight = jnp.where(senders.group == group, senders.weight, 0)
            message, new = reducer.update(messages, senders._replace(weight=weight), state, key)
            some = jnp.any(weight > 0)
            return message, jax.tree.map(lambda a, b: jnp.where(some, a, b), new, state)

        return jax.vmap(one)(jnp.arange(groups), state, jax.random.split(key, groups))

    return reducer._replace(init=init, update=update)
