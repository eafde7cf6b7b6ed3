"""One round of federated learning, for every algorithm, reducer and way to map over clients."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_med.core import faults as happening
from fedjax_med.core.aggregation import Reducer, Senders, grouped
from fedjax_med.core.client_map import MapClients
from fedjax_med.core.faults import Conditions
from fedjax_med.core.types import Array, Examples, Key, Message, Metrics, Params

ServerState = Any  # a pytree of arrays with a field `params`
ClientState = Any  # a pytree of arrays


class ClientResult(NamedTuple):
    """What one client's round gives."""

    message: Message  # leaves the client
    state: ClientState  # stays at the client
    weight: Array  # float32 [], the number of examples
    metrics: Metrics  # for the report, and for what `FedAlgorithm.receive` needs of them
    group: Any = 0  # int32 [], whose model the message is for, where the algorithm has groups


class FedAlgorithm(NamedTuple):
    """An algorithm as three pure functions, and what few of them need beside.

    init: ``params -> (server state, state of ONE client)``.
    client_update: ``(server state, client state, examples [N], round [], key) -> ClientResult``.
    server_update: ``(server state, reduced message) -> server state``.
    personal: ``(server state, state of ONE client) -> params``, the model that the client uses and
        is evaluated by; None: all use the server's.
    groups: G, how many groups of clients have a model of their own; the messages of each are
        reduced by themselves, and ``server_update`` gets ``[G, ...]``. 0: all are one.
    receive: ``(server state, ClientResult [S, ...]) -> (server state, client states [S, ...])``,
        what the server does with the single messages before they are reduced; None: nothing.
        Clients that do not count have the weight 0 and the message zero.
    download: ``(server state, state of ONE client) -> pytree``, what a client is sent each round;
        None: the server's parameters.
    """

    init: Callable[[Params], tuple[ServerState, ClientState]]
    client_update: Callable[[ServerState, ClientState, Examples, Array, Key], ClientResult]
    server_update: Callable[[ServerState, Message], ServerState]
    personal: Callable[[ServerState, ClientState], Params] | None = None
    groups: int = 0
    receive: Callable[[ServerState, ClientResult], tuple[ServerState, ClientState]] | None = None
    download: Callable[[ServerState, ClientState], Any] | None = None


class FedState(NamedTuple):
    """All that the next round needs; it is the checkpoint."""

    round: Array  # int32 [], the rounds that are done
    server: ServerState
    clients: ClientState  # [C, ...] in every leaf
    reducer: Any


# Who takes part in a round: `(key, examples of each client int [C]) -> places int32 [S]`, all
# different and in ascending order.
Cohort = Callable[[Key, Array], Array]
_COHORT = 2  # the round's key is split into 0 and 1 already

LOSS_BEFORE = "loss_before"  # a client's metric: the global model's mean loss on its examples

Buckets = tuple[Examples, ...]  # [S_b, N_b] each: clients of like size side by side
Places = tuple[Array, ...] | None  # int32 [S_b] each, ascending: who is in which bucket


def choose(cohort: Cohort, key: Key, round: Array, sizes: Array) -> Array:
    """Who takes part in `round`: int32 [S], a function of the experiment's `key` and the sizes."""
    return cohort(jax.random.fold_in(jax.random.fold_in(key, round), _COHORT), sizes)


def cohort_size(cohort: Cohort, num_clients: int) -> int:
    """S, how many of `num_clients` take part in each round."""
    sizes = jax.ShapeDtypeStruct((num_clients,), jnp.int32)
    return int(jax.eval_shape(cohort, jax.random.key(0), sizes).shape[0])


def message_of(
    algorithm: FedAlgorithm, server: ServerState, client: ClientState, data: Examples
) -> Message:
    """The shapes and types of what one client sends, from those of the stacked `data` [C, N]."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), data)
    number, key = jnp.int32(0), jax.random.key(0)
    return jax.eval_shape(algorithm.client_update, server, client, one, number, key).message


def init(
    algorithm: FedAlgorithm,
    reducer: Reducer,
    params: Params,
    data: Examples,
    cohort: Cohort | None = None,
) -> FedState:
    """The state before the first round.

    Args:
        algorithm: the algorithm.
        reducer: the reducer.
        params: the first global parameters.
        data: the clients' training examples, ``[C, N]``, or their shapes and types.
        cohort: who takes part in a round; None is everyone.
    """
    server, client = algorithm.init(params)
    num_clients = data.label.shape[0]
    shapes = message_of(algorithm, server, client, data)
    message = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    stacked = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_clients, *jnp.shape(leaf))), client
    )
    senders = num_clients if cohort is None else cohort_size(cohort, num_clients)
    reduced = grouped(reducer, algorithm.groups).init(message, num_clients, senders)
    return FedState(jnp.int32(0), server, stacked, reduced)


def _taking_part(
    state: FedState, data: Buckets, places: Places, client_ids: Array | None
) -> list[tuple[ClientState, Examples, Array]]:
    """The states, examples and ids of those that take part, bucket by bucket."""
    if places is None:
        everyone = jnp.arange(data[0].label.shape[0], dtype=jnp.int32)
        return [(state.clients, data[0], everyone if client_ids is None else client_ids)]

    def at(tree: Any, there: Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[there], tree)

    return [
        (at(state.clients, there), one, there if client_ids is None else client_ids[there])
        for one, there in zip(data, places, strict=True)
    ]


def _in_order(results: list[Any], places: Places) -> Any:
    """The buckets' results side by side, ``[S, ...]``, in the clients' order."""
    if len(results) == 1 or places is None:
        return results[0]
    order = jnp.argsort(jnp.concatenate(places))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *results)


_HOSTILE = 3  # the round's key is split into 0 and 1 already


def _update_of(algorithm: FedAlgorithm, conditions: Conditions) -> Callable[[Any, Any], Any]:
    """One client's round, as it is mapped over the clients."""

    def update(
        shared: tuple[ServerState, Array, Key], one: tuple[ClientState, Examples, Array]
    ) -> ClientResult:
        server, number, clients_key = shared
        client, examples, client_id = one
        client_key = jax.random.fold_in(clients_key, client_id)

        def train(client: ClientState) -> ClientResult:
            given = happening.poisoned(conditions, examples, client_id, client_key)
            result = algorithm.client_update(server, client, given, number, client_key)
            finite = happening.is_finite(result.message)
            return result._replace(
                metrics={**result.metrics, "finite": finite}, group=jnp.int32(result.group)
            )

        if conditions.turnout.rate == 1:
            return train(client)
        result = jax.eval_shape(train, client)
        there = happening.present(conditions.turnout, client_key)
        trained: ClientResult = jax.lax.cond(
            there, train, lambda client: happening.absent(result, client), client
        )
        return trained

    return update


def run_round(
    algorithm: FedAlgorithm,
    reducer: Reducer,
    state: FedState,
    data: Examples | Buckets,
    key: Key,
    *,
    map_clients: MapClients = jax.vmap,
    client_ids: Array | None = None,
    places: Places = None,
    conditions: Conditions | None = None,
    with_messages: bool = False,
) -> tuple[FedState, Metrics]:
    """One round: every client's update, the reduction of their messages, the server's update.

    Pure, and made to be jitted whole: one compiled program a round.

    Args:
        algorithm: the algorithm.
        reducer: the reducer, with its transforms (`fedjax_med.core.aggregation.chain`).
        state: the state after `state.round` rounds.
        data: the training examples of all clients, ``[C, N]``; with `places`, of those alone,
            ``[S, N]``, or in buckets of clients of like size, a tuple of ``[S_b, N_b]``: the
            reducer is given the same messages, and less padding is computed. Under a sharded
            strategy also with empty clients at the end that fill the last device.
        key: the experiment's key, the same in every round: the round's randomness is
            ``fold_in(key, state.round)``, so a resumed run draws the same numbers.
        map_clients: from a function of one client to one of all, as `jax.vmap` does; all of
            `STRATEGIES` give the same result.
        client_ids: int32 [C], who the clients are; a client's randomness follows its id. Without
            it, their places, and then no client is there to fill a device.
        places: who is in each bucket, or in the only one, where that is not everyone in order;
            what `choose` gave.
        conditions: what goes wrong among the clients; None is nothing.
        with_messages: whether the clients' messages are told, before all transforms.

    Returns:
        The state after one more round and the metrics of each client that took part, ``[S]``:
        those of the algorithm, "client" (its id), "weight" (its examples; 0: does not count) and
        "finite", whether all that it sent is a number; under conditions "present" (took part) and
        "counted"; "message" and "group" if those are asked for.
    """
    conditions = conditions or Conditions()
    data = (data,) if isinstance(data, Examples) else data
    round_key = jax.random.fold_in(key, state.round)
    clients_key, reducer_key = jax.random.split(round_key)
    shared = (state.server, state.round, clients_key)
    mapped = map_clients(_update_of(algorithm, conditions), in_axes=(None, 0))
    taking_part = _taking_part(state, data, places, client_ids)
    results = _in_order([mapped(shared, bucket) for bucket in taking_part], places)
    ids = _in_order([bucket[2] for bucket in taking_part], places)
    results = results._replace(metrics={**results.metrics, "client": ids})
    there = None if places is None else jnp.sort(jnp.concatenate(places))
    if not conditions.quiet:
        before = state.clients
        if there is not None:
            before = jax.tree.map(lambda leaf: leaf[there], before)
        keys = jax.vmap(functools.partial(jax.random.fold_in, clients_key))(ids)
        hostile_key = jax.random.fold_in(round_key, _HOSTILE)
        results = happening.counted(conditions, results, before, keys, hostile_key)
    new = _serve(algorithm, reducer, state, results, there, reducer_key)
    metrics = {**results.metrics, "weight": results.weight}
    if with_messages:
        metrics |= {"message": results.message, "group": results.group}
    return new, metrics


def server_step(
    algorithm: FedAlgorithm, reducer: Reducer, server: ServerState, message: Message, some: Array
) -> ServerState:
    """The server's update, or the state as it is where nobody counts.

    What an optimizer remembers must not move a model that nobody trained. Only under differential
    privacy it does: there the noise is added whoever takes part.

    Args:
        algorithm: the algorithm.
        reducer: which made `message`.
        server: the state of the server.
        message: the reduced one.
        some: bool [], whether any client counts.
    """
    after = algorithm.server_update(server, message)
    if reducer.private:
        return after
    return jax.tree.map(lambda new, old: jnp.where(some, new, old), after, server)


def _serve(
    algorithm: FedAlgorithm,
    reducer: Reducer,
    state: FedState,
    results: ClientResult,
    there: Array | None,
    key: Key,
) -> FedState:
    """The server's part of a round, from what the clients at the places `there` sent."""
    server, clients = state.server, results.state
    if algorithm.receive is not None:
        server, clients = algorithm.receive(server, results)
    weight = results.weight
    place = jnp.arange(weight.shape[0], dtype=jnp.int32) if there is None else there
    loss = results.metrics.get(LOSS_BEFORE, jnp.zeros_like(weight))
    message, reducer_state = grouped(reducer, algorithm.groups).update(
        results.message, Senders(weight, place, loss, results.group), state.reducer, key
    )
    server = server_step(algorithm, reducer, server, message, jnp.any(weight > 0))
    if there is not None:
        clients = jax.tree.map(lambda all_, new: all_.at[there].set(new), state.clients, clients)
    return FedState(state.round + 1, server, clients, reducer_state)
