"""One round of federated learning, for every algorithm, aggregator and client map."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import Aggregator, ClientInfo, per_cluster
from fedjax_med.core.algorithm import (
    LOSS_BEFORE,
    ClientOutput,
    ClientState,
    Cohort,
    FederatedAlgorithm,
    FederatedState,
    ServerState,
    message_of,
)
from fedjax_med.core.client_map import MapClients
from fedjax_med.core.faults import (
    Faults,
    accept_updates,
    is_finite,
    no_update,
    participates,
    poison_data,
)
from fedjax_med.core.random import Stream
from fedjax_med.core.trees import select, take, zeros_like_shapes
from fedjax_med.core.types import Array, Examples, Key, Message, Metrics, Params

Buckets = tuple[Examples, ...]  # [S_b, N_b] each: clients of similar size together
ClientIndices = tuple[Array, ...] | None  # int32 [S_b] each, ascending: each bucket's clients


def choose(cohort: Cohort, key: Key, round: Array, sizes: Array) -> Array:
    """Select the clients of `round`, from the experiment's `key` and the sizes: int32 [S]."""
    return cohort(jax.random.fold_in(jax.random.fold_in(key, round), Stream.COHORT), sizes)


def round_keys(key: Key, round: Array) -> tuple[Key, Key]:
    """Derive the clients' key and the aggregator's key of `round` from the experiment's `key`."""
    clients_key, aggregator_key = jax.random.split(jax.random.fold_in(key, round))
    return clients_key, aggregator_key


def cohort_size(cohort: Cohort, num_clients: int) -> int:
    """Compute S, how many of `num_clients` clients participate in each round."""
    sizes = jax.ShapeDtypeStruct((num_clients,), jnp.int32)
    return int(jax.eval_shape(cohort, jax.random.key(0), sizes).shape[0])


def init(
    algorithm: FederatedAlgorithm,
    aggregator: Aggregator,
    params: Params,
    data: Examples,
    cohort: Cohort | None = None,
) -> FederatedState:
    """Build the state before the first round.

    Args:
        algorithm: the algorithm.
        aggregator: the aggregator.
        params: the initial global parameters.
        data: the clients' training examples, ``[C, N]``, or their shapes and dtypes.
        cohort: selects the clients of a round; None: all of them.
    """
    server, client = algorithm.init(params)
    num_clients = data.label.shape[0]
    message = zeros_like_shapes(message_of(algorithm, server, client, data))
    stacked = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_clients, *jnp.shape(leaf))), client
    )
    participants = num_clients if cohort is None else cohort_size(cohort, num_clients)
    reduced = per_cluster(aggregator, algorithm.num_clusters).init(
        message, num_clients, participants
    )
    return FederatedState(jnp.int32(0), server, stacked, reduced)


def _taking_part(
    state: FederatedState, data: Buckets, places: ClientIndices, client_ids: Array | None
) -> list[tuple[ClientState, Examples, Array]]:
    """Gather the states, examples and ids of the round's clients, bucket by bucket."""
    if places is None:
        everyone = jnp.arange(data[0].label.shape[0], dtype=jnp.int32)
        return [(state.clients, data[0], everyone if client_ids is None else client_ids)]

    return [
        (take(state.clients, there), one, there if client_ids is None else client_ids[there])
        for one, there in zip(data, places, strict=True)
    ]


def _in_order(results: list[Any], places: ClientIndices) -> Any:
    """Concatenate the buckets' results, ``[S, ...]``, in the clients' order."""
    if len(results) == 1 or places is None:
        return results[0]
    order = jnp.argsort(jnp.concatenate(places))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *results)


def _update_of(algorithm: FederatedAlgorithm, faults: Faults) -> Callable[[Any, Any], Any]:
    """Build the function of one client's round, to be mapped over the clients."""

    def update(
        shared: tuple[ServerState, Array, Key], one: tuple[ClientState, Examples, Array]
    ) -> ClientOutput:
        server, number, clients_key = shared
        client, examples, client_id = one
        client_key = jax.random.fold_in(clients_key, client_id)

        def train(client: ClientState) -> ClientOutput:
            given = poison_data(faults, examples, client_id, client_key)
            result = algorithm.client_update(server, client, given, number, client_key)
            finite = is_finite(result.update)
            return result._replace(
                metrics={**result.metrics, "finite": finite}, cluster=jnp.int32(result.cluster)
            )

        if faults.participation.participation_rate == 1:
            return train(client)
        result = jax.eval_shape(train, client)
        there = participates(faults.participation, client_key)
        trained: ClientOutput = jax.lax.cond(
            there, train, lambda client: no_update(result, client), client
        )
        return trained

    return update


def run_round(
    algorithm: FederatedAlgorithm,
    aggregator: Aggregator,
    state: FederatedState,
    data: Examples | Buckets,
    key: Key,
    *,
    map_clients: MapClients = jax.vmap,
    client_ids: Array | None = None,
    places: ClientIndices = None,
    faults: Faults | None = None,
    with_messages: bool = False,
) -> tuple[FederatedState, Metrics]:
    """Run one round: the clients' updates, their aggregation, the server's update.

    Pure, and meant to be jitted as a whole: one compiled program per round.

    Args:
        algorithm: the algorithm.
        aggregator: the aggregator, with its transforms (`fedjax_med.core.aggregation.chain`).
        state: the state after `state.round` rounds.
        data: the training examples of all clients, ``[C, N]``; with `places`, of those clients
            only, ``[S, N]``, or in buckets of clients of similar size, a tuple of ``[S_b, N_b]``:
            the aggregator gets the same messages, and less padding is computed. A sharded client
            map also takes empty clients at the end, which fill the last device.
        key: the experiment's key, the same in every round: the round's randomness is
            ``fold_in(key, state.round)``, so a resumed run draws the same numbers.
        map_clients: maps a function of one client over all, as `jax.vmap` does; all of
            `fedjax_med.core.client_map.CLIENT_MAPS` give the same result.
        client_ids: int32 [C], the clients' ids, which determine their randomness. None: their
            indices, and then no empty clients may fill a device.
        places: indices of the clients in each bucket (one or several), as selected by `choose`;
            None: all clients in order.
        faults: the faults and attacks of clients; None: none.
        with_messages: whether to return the clients' messages, before all transforms.

    Returns:
        The state after one more round and the metrics of each client of the cohort, ``[S]``: those
        of the algorithm, "client" (its id), "weight" (its examples; 0: does not count) and
        "finite", whether its update is finite; under faults "present" (participated) and
        "counted"; with `with_messages` "message" and "group" (the cluster).
    """
    faults = faults or Faults()
    data = (data,) if isinstance(data, Examples) else data
    clients_key, aggregator_key = round_keys(key, state.round)
    shared = (state.server, state.round, clients_key)
    mapped = map_clients(_update_of(algorithm, faults), in_axes=(None, 0))
    taking_part = _taking_part(state, data, places, client_ids)
    results = _in_order([mapped(shared, bucket) for bucket in taking_part], places)
    ids = _in_order([bucket[2] for bucket in taking_part], places)
    results = results._replace(metrics={**results.metrics, "client": ids})
    there = None if places is None else jnp.sort(jnp.concatenate(places))
    if not faults.none:
        before = state.clients if there is None else take(state.clients, there)
        keys = jax.vmap(functools.partial(jax.random.fold_in, clients_key))(ids)
        round_key = jax.random.fold_in(key, state.round)
        hostile_key = jax.random.fold_in(round_key, Stream.ATTACKERS)
        results = accept_updates(faults, results, before, keys, hostile_key)
    new = _serve(algorithm, aggregator, state, results, there, aggregator_key)
    metrics = {**results.metrics, "weight": results.num_examples}
    if with_messages:
        metrics |= {"message": results.update, "group": results.cluster}
    return new, metrics


def server_step(
    algorithm: FederatedAlgorithm,
    aggregator: Aggregator,
    server: ServerState,
    message: Message,
    some: Array,
) -> ServerState:
    """Apply the server's update, or keep the state if no client contributed.

    Keeps it so that momentum alone cannot move the model. A private aggregator always steps: its
    noise must not depend on who participates.

    Args:
        algorithm: the algorithm.
        aggregator: the aggregator that computed `message`.
        server: the server's state.
        message: the aggregated message.
        some: bool [], whether any client counts.
    """
    after = algorithm.server_update(server, message)
    if aggregator.is_private:
        return after
    return select(some, after, server)


def _serve(
    algorithm: FederatedAlgorithm,
    aggregator: Aggregator,
    state: FederatedState,
    results: ClientOutput,
    there: Array | None,
    key: Key,
) -> FederatedState:
    """Run the server's part of a round, on the output of the clients at the indices `there`."""
    server, clients = state.server, results.state
    if algorithm.process_updates is not None:
        server, clients = algorithm.process_updates(server, results)
    weight = results.num_examples
    place = jnp.arange(weight.shape[0], dtype=jnp.int32) if there is None else there
    loss = results.metrics.get(LOSS_BEFORE, jnp.zeros_like(weight))
    message, aggregator_state = per_cluster(aggregator, algorithm.num_clusters).update(
        results.update, ClientInfo(weight, place, loss, results.cluster), state.aggregator, key
    )
    server = server_step(algorithm, aggregator, server, message, jnp.any(weight > 0))
    if there is not None:
        clients = jax.tree.map(lambda all_, new: all_.at[there].set(new), state.clients, clients)
    return FederatedState(state.round + 1, server, clients, aggregator_state)
