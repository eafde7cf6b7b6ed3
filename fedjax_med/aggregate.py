"""What happens to the clients' messages on their way to the server: transforms, then one reducer.

Both are pure functions in a NamedTuple, and `chain` is closed: transforms with a reducer are again
a reducer, as in optax.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_med.types import Array, Key, Message

State = Any  # a pytree of arrays


class MessageTransform(NamedTuple):
    """Changes the stacked messages, ``[C, ...] -> [C, ...]`` in every leaf.

    init: ``(message of one client, num_clients) -> state``.
    update: ``(messages, state, key) -> (messages, state)``.
    """

    init: Callable[[Message, int], State]
    update: Callable[[Message, State, Key], tuple[Message, State]]


class Reducer(NamedTuple):
    """Makes one message of the stacked ones, ``[C, ...] -> [...]`` in every leaf.

    init: ``(message of one client, num_clients) -> state``.
    update: ``(messages, weights [C], state, key) -> (message, state)``; a weight is the client's
        number of examples, and 0 means that the client sent nothing that counts.
    """

    init: Callable[[Message, int], State]
    update: Callable[[Message, Array, State, Key], tuple[Message, State]]


def chain(*transforms: MessageTransform, reducer: Reducer) -> Reducer:
    """The reducer that applies `transforms` in order and then `reducer`.

    Each part gets a key of its own.
    """
    if not transforms:
        return reducer

    def init(message: Message, num_clients: int) -> State:
        states = [transform.init(message, num_clients) for transform in transforms]
        return (*states, reducer.init(message, num_clients))

    def update(messages: Message, weights: Array, state: State, key: Key) -> tuple[Message, State]:
        keys = jax.random.split(key, len(transforms) + 1)
        states = []
        for index, transform in enumerate(transforms):
            messages, new = transform.update(messages, state[index], keys[index])
            states.append(new)
        message, last = reducer.update(messages, weights, state[-1], keys[-1])
        return message, (*states, last)

    return Reducer(init, update)
