"""One round of federated learning, for every algorithm, reducer and way to map over clients."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from fedjax_med.aggregate import Reducer
from fedjax_med.types import Array, Examples, Key, Message, Metrics, Params

ServerState = Any  # a pytree of arrays with a field `params`
ClientState = Any  # a pytree of arrays


class ClientResult(NamedTuple):
    """What one client's round gives."""

    message: Message  # leaves the client
    state: ClientState  # stays at the client
    weight: Array  # float32 [], the number of examples
    metrics: Metrics  # for the report only


class FedAlgorithm(NamedTuple):
    """An algorithm as three pure functions.

    init: ``params -> (server state, state of ONE client)``.
    client_update: ``(server state, client state, examples [N], round [], key) -> ClientResult``.
    server_update: ``(server state, reduced message) -> server state``.
    """

    init: Callable[[Params], tuple[ServerState, ClientState]]
    client_update: Callable[[ServerState, ClientState, Examples, Array, Key], ClientResult]
    server_update: Callable[[ServerState, Message], ServerState]


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

Buckets = tuple[Examples, ...]  # [S_b, N_b] each: clients of like size side by side
Places = tuple[Array, ...] | None  # int32 [S_b] each, ascending: who is in which bucket

# Called as `map_clients(function, in_axes=(None, 0))`, like `jax.vmap`: all clients share the
# function's first argument, and its second has a leading client axis in every leaf.
MapClients = Callable[..., Callable[[Any, Any], Any]]


def sequential(function: Callable[[Any, Any], Any], in_axes: Any) -> Callable[[Any, Any], Any]:
    """What `jax.vmap` gives, computed for one client after the other in one compiled loop."""
    del in_axes
    return lambda shared, clients: jax.lax.map(lambda one: function(shared, one), clients)


def _clients_mesh() -> Mesh:
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((jax.device_count(),), ("clients",), axis_types=auto)


def sharded(
    function: Callable[[Any, Any], Any], in_axes: Any, within: MapClients = jax.vmap
) -> Callable[[Any, Any], Any]:
    """What `jax.vmap` gives, with the clients dealt over all devices and mapped `within` each.

    Where the devices do not divide the clients, arrays with a row for each client are filled with
    repeats of the last one, what comes of them is dropped, and longer arrays are full already.
    """
    mesh, devices = _clients_mesh(), jax.device_count()
    split, whole = PartitionSpec("clients"), PartitionSpec()

    def mapped(shared: Any, clients: Any) -> Any:
        num_clients = min(leaf.shape[0] for leaf in jax.tree.leaves(clients))
        rows = num_clients + -num_clients % devices

        def filled(leaf: Array) -> Array:
            fill = rows - leaf.shape[0]
            return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], fill, axis=0)]) if fill else leaf

        padded = jax.tree.map(filled, clients)
        # No device talks to another inside, so what varies over devices need not be tracked.
        spread = jax.shard_map(
            within(function, in_axes=in_axes),
            mesh=mesh,
            in_specs=(whole, split),
            out_specs=split,
            check_vma=False,
        )
        return jax.tree.map(lambda leaf: leaf[:num_clients], spread(shared, padded))

    return mapped


STRATEGIES: dict[str, MapClients] = {
    "vmap": jax.vmap,
    "sequential": sequential,
    "sharded_vmap": sharded,
    "sharded_sequential": functools.partial(sharded, within=sequential),
}


class Placement(NamedTuple):
    """Where the arrays of a round live, as jit's shardings; the same before and after a round.

    What is placed so once is neither copied nor compiled for again.
    """

    state: Any  # of a `FedState`
    data: Any  # of the clients' examples
    metrics: Any
    rows: int  # of the clients' examples: C, and what fills the last device


def placement(name: str, num_clients: int) -> Placement:
    """The placement that suits the strategy `name` of `STRATEGIES` with `num_clients` clients.

    Under a sharded one a client's examples lie on the client's device and the rest on all of them;
    where the devices divide the clients, the client's state lies there too.
    """
    if not name.startswith("sharded"):
        one = SingleDeviceSharding(jax.devices()[0])
        return Placement(one, one, one, num_clients)
    mesh = _clients_mesh()
    whole: Any = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("clients"))
    fill = -num_clients % jax.device_count()
    states = whole if fill else split
    return Placement(FedState(whole, whole, states, whole), split, whole, num_clients + fill)


def choose(cohort: Cohort, key: Key, round: Array, sizes: Array) -> Array:
    """Who takes part in `round`: int32 [S], a function of the experiment's `key` and the sizes."""
    return cohort(jax.random.fold_in(jax.random.fold_in(key, round), _COHORT), sizes)


def cohort_size(cohort: Cohort, num_clients: int) -> int:
    """S, how many of `num_clients` take part in each round."""
    sizes = jax.ShapeDtypeStruct((num_clients,), jnp.int32)
    return int(jax.eval_shape(cohort, jax.random.key(0), sizes).shape[0])


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

    def update_one(data: Examples) -> ClientResult:
        one = jax.tree.map(lambda leaf: leaf[0], data)
        return algorithm.client_update(server, client, one, jnp.int32(0), jax.random.key(0))

    result = jax.eval_shape(update_one, data)
    message = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), result.message)
    stacked = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (num_clients, *jnp.shape(leaf))), client
    )
    senders = num_clients if cohort is None else cohort_size(cohort, num_clients)
    return FedState(jnp.int32(0), server, stacked, reducer.init(message, senders))


def is_finite(tree: Any) -> Array:
    """Whether all floating-point numbers in `tree` are neither NaN nor infinite: bool []."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    return jnp.all(jnp.stack(finite)) if finite else jnp.bool_(True)


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
) -> tuple[FedState, Metrics]:
    """One round: every client's update, the reduction of their messages, the server's update.

    Pure, and made to be jitted whole: one compiled program a round.

    Args:
        algorithm: the algorithm.
        reducer: the reducer, with its transforms (`fedjax_med.aggregate.chain`).
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

    Returns:
        The state after one more round and the metrics of each client that took part, ``[S]``:
        those of the algorithm, "client" (its id), "weight", and "finite", whether all that the
        client sent is a number.
    """
    data = (data,) if isinstance(data, Examples) else data
    round_key = jax.random.fold_in(key, state.round)
    clients_key, reducer_key = jax.random.split(round_key)

    def update(
        shared: tuple[ServerState, Array, Key], one: tuple[ClientState, Examples, Array]
    ) -> ClientResult:
        server, number, clients_key = shared
        client, examples, client_id = one
        client_key = jax.random.fold_in(clients_key, client_id)
        result = algorithm.client_update(server, client, examples, number, client_key)
        finite = is_finite(result.message)
        return result._replace(metrics={**result.metrics, "finite": finite})

    shared = (state.server, state.round, clients_key)
    mapped = map_clients(update, in_axes=(None, 0))
    taking_part = _taking_part(state, data, places, client_ids)
    results = _in_order([mapped(shared, bucket) for bucket in taking_part], places)
    message, reducer_state = reducer.update(
        results.message, results.weight, state.reducer, reducer_key
    )
    server = algorithm.server_update(state.server, message)
    clients = results.state
    if places is not None:
        there = jnp.sort(jnp.concatenate(places))
        clients = jax.tree.map(lambda all_, new: all_.at[there].set(new), state.clients, clients)
    ids = _in_order([bucket[2] for bucket in taking_part], places)
    new = FedState(state.round + 1, server, clients, reducer_state)
    return new, {**results.metrics, "client": ids, "weight": results.weight}
