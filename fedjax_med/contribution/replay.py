"""A run's rounds over again, from what its clients sent: with everybody, or with some alone."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_med.contribution.shapley import Coalitions, Floats
from fedjax_med.core.aggregation import Senders
from fedjax_med.core.round import FedState, server_step
from fedjax_med.core.types import Array, Message, Model, Params
from fedjax_med.evaluation.predict import Validation, probabilities
from fedjax_med.experiment.methods import Method
from fedjax_med.run.message_log import Updates

TOGETHER = 32  # coalitions in one call of a compiled program
_CHUNK = 2**25  # bytes of images that are on the device at a time


class Run(NamedTuple):
    """A run of which every round's updates are kept."""

    method: Method
    model: Model
    start: FedState  # before the first round
    rounds: int
    load: Callable[[int], Updates]  # of a round, from 1
    validation: Validation  # that the value of a model is measured on


Sent = tuple[Message, Senders]


def sent_of(updates: Updates) -> Sent:
    """What the server had of a round, on the device."""
    message, client, weight, loss, group = jax.tree.map(jnp.asarray, updates)
    return message, Senders(weight, client, loss, group)


def _serve(method: Method, state: FedState, sent: Sent, members: Array) -> FedState:
    """The state after a round in which of what was `sent` only that of `members` [S] counts."""
    message, senders = sent
    some = jnp.any(senders.weight > 0)  # by the round that was, whoever of it is asked for
    # The same key for all coalitions, and the one that the round had.
    key = jax.random.split(jax.random.fold_in(method.key, state.round))[1]
    senders = senders._replace(weight=jnp.where(members, senders.weight, 0))
    reduced, reducer = method.reducer.update(message, senders, state.reducer, key)
    server = server_step(method.algorithm, method.reducer, state.server, reduced, some)
    return state._replace(round=state.round + 1, server=server, reducer=reducer)


class Programs:
    """The compiled parts; each goes through the first `count` of up to `TOGETHER` coalitions."""

    def __init__(self, run: Run):
        self._run = run
        self.serve = jax.jit(functools.partial(_serve, run.method))
        self.serve_each = jax.jit(self._serve_each, donate_argnums=0)
        self._after_round = jax.jit(self._predict_after_round)
        self._of_states = jax.jit(self._predict_states)

    def _serve_each(self, states: Any, sent: Sent, members: Array, count: Array) -> Any:
        """The states [TOGETHER, ...] after one more round of each coalition [TOGETHER, S]."""

        def one(place: Array, states: Any) -> Any:
            state = jax.tree.map(lambda leaf: leaf[place], states)
            after = _serve(self._run.method, state, sent, members[place])
            return jax.tree.map(lambda leaf, new: leaf.at[place].set(new), states, after)

        return jax.lax.fori_loop(0, count, one, states)

    def _predict(self, params_of: Callable[[Array], Params], count: Array, image: Array) -> Array:
        """Of each coalition's model, [TOGETHER, B, K]; compiled once for any `count`."""

        def predicted(place: Array) -> Array:
            return jnp.asarray(probabilities(self._run.model, params_of(place), image))

        shape = jax.eval_shape(predicted, jnp.int32(0)).shape
        rows: Array = jax.lax.fori_loop(
            0,
            count,
            lambda place, rows: rows.at[place].set(predicted(place)),
            jnp.zeros((TOGETHER, *shape)),
        )
        return rows

    def _predict_after_round(
        self, state: FedState, sent: Sent, members: Array, count: Array, image: Array
    ) -> Array:
        def params_of(place: Array) -> Params:
            after = _serve(self._run.method, state, sent, members[place])
            return after.server.params

        return self._predict(params_of, count, image)

    def _predict_states(self, states: Any, count: Array, image: Array) -> Array:
        def params_of(place: Array) -> Params:
            return jax.tree.map(lambda leaf: leaf[place], states.server.params)

        return self._predict(params_of, count, image)

    def _all_images(self, program: Callable[..., Array], count: int, *given: Any) -> Floats:
        """What `program` tells of the validation images, [count, V, K]."""
        image = self._run.validation.image
        if self._run.model.frozen is not None:
            image = image[:, :1]  # the view itself, without mirrored ones
        size = max(1, int(np.prod(image.shape[1:])) * image.dtype.itemsize)
        chunk = min(len(image), max(1, _CHUNK // size))
        parts = []
        for start in range(0, len(image), chunk):
            part = np.asarray(image[start : start + chunk])
            full = np.zeros((chunk, *part.shape[1:]), part.dtype)
            full[: len(part)] = part
            parts.append(np.asarray(program(*given, count, full))[:count, : len(part)])
        return np.concatenate(parts, axis=1).astype(np.float64)

    def after_round(self, state: FedState, sent: Sent, members: Coalitions, count: int) -> Floats:
        """Predictions [count, V, K] after one round from `state`, of the first members alone.

        Args:
            state: before the round.
            sent: in the round.
            members: bool [TOGETHER, S].
            count: how many of its rows are asked for.
        """
        return self._all_images(self._after_round, count, state, sent, members)

    def of_states(self, states: Any, count: int) -> Floats:
        """Predictions [count, V, K] of the first models among `states`."""
        return self._all_images(self._of_states, count, states)


def portions(members: Coalitions) -> list[tuple[Coalitions, int]]:
    """`members` [M, n] in portions of `TOGETHER` rows, and how many of the rows are filled."""
    found = []
    for start in range(0, len(members), TOGETHER):
        part = members[start : start + TOGETHER]
        full = np.zeros((TOGETHER, members.shape[1]), np.bool_)
        full[: len(part)] = part
        found.append((full, len(part)))
    return found


def first(run: Run) -> FedState:
    """The state before the first round, without the clients' own, which no server has."""
    return run.start._replace(clients=())


def replay(run: Run) -> FedState:
    """The state after all rounds, from what everybody sent; without the clients' own."""
    serve, state = jax.jit(functools.partial(_serve, run.method)), first(run)
    for number in range(1, run.rounds + 1):
        sent = sent_of(run.load(number))
        state = serve(state, sent, jnp.ones(sent[1].weight.shape, jnp.bool_))
    return state


def distance(replayed: FedState, saved: FedState, start: FedState) -> float:
    """How far the replayed model is from the saved one, as a share of the way from the start."""

    def apart(one: FedState, other: FedState) -> float:
        gaps = jax.tree.map(
            lambda a, b: np.sum((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2),
            one.server.params,
            other.server.params,
        )
        return float(np.sqrt(sum(jax.tree.leaves(gaps))))

    return apart(replayed, saved) / max(apart(saved, start), 1e-12)
