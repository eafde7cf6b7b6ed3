"""Replays a run's rounds from the clients' updates, with all clients or only some of them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_med.contribution.shapley import Coalitions, Floats
from fedjax_med.core.aggregation import ClientInfo
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.model import Model
from fedjax_med.core.process import Process
from fedjax_med.core.round import round_keys, server_step
from fedjax_med.core.trees import take
from fedjax_med.core.types import Array, Key, Message, Params
from fedjax_med.evaluation.predict import Validation, probabilities
from fedjax_med.run.message_log import Updates

TOGETHER = 32  # coalitions per call of a compiled program
_CHUNK = 2**25  # bytes of images on the device at a time


class Run(NamedTuple):
    """A run whose updates are kept for every round."""

    process: Process
    key: Key  # of the run; each round's keys are derived from it
    model: Model
    start: FederatedState  # before the first round
    rounds: int
    load: Callable[[int], Updates]  # loads the updates of a round, from 1
    validation: Validation  # examples on which models are valued


Sent = tuple[Message, ClientInfo]


def sent_of(updates: Updates) -> Sent:
    """Put a round's updates on the device, as messages and client info."""
    message, client, weight, loss, group = jax.tree.map(jnp.asarray, updates)
    return message, ClientInfo(weight, client, loss, group)


def _serve(
    process: Process, key: Key, state: FederatedState, sent: Sent, members: Array
) -> FederatedState:
    """Return the state after a round in which only the messages of `members` [S] count."""
    message, client_info = sent
    # Whether anyone counted in the original round, whichever coalition is replayed.
    some = jnp.any(client_info.num_examples > 0)
    # All coalitions get the key that the original round had.
    _, aggregator_key = round_keys(key, state.round)
    client_info = client_info._replace(num_examples=jnp.where(members, client_info.num_examples, 0))
    reduced, aggregator = process.aggregator.update(
        message, client_info, state.aggregator, aggregator_key
    )
    server = server_step(process.algorithm, process.aggregator, state.server, reduced, some)
    return state._replace(round=state.round + 1, server=server, aggregator=aggregator)


class Programs:
    """Compiled programs; all but `serve` run the first `count` of up to `TOGETHER` coalitions."""

    def __init__(self, run: Run):
        self._run = run
        self.serve = jax.jit(functools.partial(_serve, run.process, run.key))
        self.serve_each = jax.jit(self._serve_each, donate_argnums=0)
        self._after_round = jax.jit(self._predict_after_round)
        self._of_states = jax.jit(self._predict_states)

    def _serve_each(self, states: Any, sent: Sent, members: Array, count: Array) -> Any:
        """Advance the states [TOGETHER, ...] by a round, each with its coalition [TOGETHER, S]."""

        def one(place: Array, states: Any) -> Any:
            state = take(states, place)
            after = _serve(self._run.process, self._run.key, state, sent, members[place])
            return jax.tree.map(lambda leaf, new: leaf.at[place].set(new), states, after)

        return jax.lax.fori_loop(0, count, one, states)

    def _predict(self, params_of: Callable[[Array], Params], count: Array, image: Array) -> Array:
        """Predict with each coalition's model, [TOGETHER, B, K]; compiled once for any `count`."""

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
        self, state: FederatedState, sent: Sent, members: Array, count: Array, image: Array
    ) -> Array:
        def params_of(place: Array) -> Params:
            after = _serve(self._run.process, self._run.key, state, sent, members[place])
            return after.server.params

        return self._predict(params_of, count, image)

    def _predict_states(self, states: Any, count: Array, image: Array) -> Array:
        def params_of(place: Array) -> Params:
            return take(states.server.params, place)

        return self._predict(params_of, count, image)

    def _all_images(self, program: Callable[..., Array], count: int, *given: Any) -> Floats:
        """Run `program` on all validation images, in chunks: [count, V, K]."""
        image = self._run.validation.image
        if self._run.model.frozen is not None:
            image = image[:, :1]  # only the original view, none of the mirrored ones
        size = max(1, int(np.prod(image.shape[1:])) * image.dtype.itemsize)
        chunk = min(len(image), max(1, _CHUNK // size))
        parts = []
        for start in range(0, len(image), chunk):
            part = np.asarray(image[start : start + chunk])
            full = np.zeros((chunk, *part.shape[1:]), part.dtype)
            full[: len(part)] = part
            parts.append(np.asarray(program(*given, count, full))[:count, : len(part)])
        return np.concatenate(parts, axis=1).astype(np.float64)

    def after_round(
        self, state: FederatedState, sent: Sent, members: Coalitions, count: int
    ) -> Floats:
        """Predict [count, V, K] after one round from `state`, for the first coalitions.

        Args:
            state: before the round.
            sent: messages and client info of the round.
            members: bool [TOGETHER, S], one coalition per row.
            count: how many of its rows are used.
        """
        return self._all_images(self._after_round, count, state, sent, members)

    def of_states(self, states: Any, count: int) -> Floats:
        """Predict [count, V, K] with the first models among `states`."""
        return self._all_images(self._of_states, count, states)


def portions(members: Coalitions) -> list[tuple[Coalitions, int]]:
    """Split `members` [M, n] into portions of `TOGETHER` rows, with their number of filled rows."""
    found = []
    for start in range(0, len(members), TOGETHER):
        part = members[start : start + TOGETHER]
        full = np.zeros((TOGETHER, members.shape[1]), np.bool_)
        full[: len(part)] = part
        found.append((full, len(part)))
    return found


def first(run: Run) -> FederatedState:
    """Return the state before the first round, without client states, which a server lacks."""
    return run.start._replace(clients=())


def replay(run: Run) -> FederatedState:
    """Replay all rounds with all clients; return the last state, without client states."""
    serve, state = jax.jit(functools.partial(_serve, run.process, run.key)), first(run)
    for number in range(1, run.rounds + 1):
        sent = sent_of(run.load(number))
        state = serve(state, sent, jnp.ones(sent[1].num_examples.shape, jnp.bool_))
    return state


def distance(replayed: FederatedState, saved: FederatedState, start: FederatedState) -> float:
    """Measure the replay's distance from the saved model, as a share of that model's movement."""

    def apart(one: FederatedState, other: FederatedState) -> float:
        gaps = jax.tree.map(
            lambda a, b: np.sum((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2),
            one.server.params,
            other.server.params,
        )
        return float(np.sqrt(sum(jax.tree.leaves(gaps))))

    return apart(replayed, saved) / max(apart(saved, start), 1e-12)
