"""The steps of a round, which `fedjax_med.core.process.Process.round` puts together."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import Aggregator, ClientInfo, per_cluster, transformed
from fedjax_med.core.algorithm import (
    LOSS_BEFORE,
    ClientOutput,
    ClientState,
    Cohort,
    FederatedAlgorithm,
    FederatedState,
    ServerState,
)
from fedjax_med.core.faults import (
    Faults,
    is_finite,
    no_update,
    participates,
    poison_data,
)
from fedjax_med.core.random import Stream
from fedjax_med.core.trees import broadcast_rows, select, take
from fedjax_med.core.types import Array, Examples, Key, Message
from fedjax_med.errors import UserError

Buckets = tuple[Examples, ...]  # [S_b, N_b] each: clients of similar size together
ClientIndices = tuple[Array, ...] | None  # int32 [S_b] each, ascending: each bucket's clients


class RoundBatch(NamedTuple):
    """A round's clients and their data.

    Attributes:
        data: the training examples of all C clients, ``[C, N]``; with `places`, of those clients
            only, ``[S, N]``, or in buckets of clients of similar size, a tuple of ``[S_b, N_b]``:
            the aggregator gets the same messages, and less padding is computed. A sharded client
            map also takes empty clients at the end, which fill the last device.
        places: the indices of the clients in each bucket, as selected by `choose`; None: all
            clients in order.
        ids: int32 [C], the clients' ids, which determine their randomness. None: their indices, and
            then no empty clients may fill a device.
    """

    data: Examples | Buckets
    places: ClientIndices = None
    ids: Array | None = None

    @property
    def buckets(self) -> Buckets:
        """Return the data as a tuple of buckets."""
        return (self.data,) if isinstance(self.data, Examples) else self.data

    @property
    def indices(self) -> Array | None:
        """Return the clients' indices in ascending order, int32 [S]; None: all clients."""
        return None if self.places is None else jnp.sort(jnp.concatenate(self.places))


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


def clients_of(
    state: FederatedState, batch: RoundBatch
) -> list[tuple[ClientState, Examples, Array]]:
    """Gather the states, examples and ids of the round's clients, bucket by bucket."""
    if batch.places is None:
        (data,) = batch.buckets
        everyone = jnp.arange(data.mask.shape[0], dtype=jnp.int32)
        return [(state.clients, data, everyone if batch.ids is None else batch.ids)]

    return [
        (take(state.clients, there), data, there if batch.ids is None else batch.ids[there])
        for data, there in zip(batch.buckets, batch.places, strict=True)
    ]


def in_order(results: list[Any], places: ClientIndices) -> Any:
    """Concatenate the buckets' results, ``[S, ...]``, in the clients' order."""
    if len(results) == 1 or places is None:
        return results[0]
    order = jnp.argsort(jnp.concatenate(places))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *results)


def client_function(algorithm: FederatedAlgorithm, faults: Faults) -> Callable[[Any, Any], Any]:
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


def _follow(
    algorithm: FederatedAlgorithm,
    aggregator: Aggregator,
    server: ServerState,
    clients: ClientState,
    messages: Message,
    info: ClientInfo,
    state: Any,
    key: Key,
) -> tuple[ClientState, tuple[Message, Any]]:
    """Aggregate as `aggregator` does, and let the clients do what they do after their transforms.

    Returns:
        The clients' new states, [S, ...], and what the aggregator's ``update`` returns.
    """
    assert aggregator.chained is not None
    assert algorithm.after_sending is not None
    transforms, last = aggregator.chained
    keys = jax.random.split(key, len(transforms) + 1)

    def forgotten(states: Sequence[Any]) -> tuple[Any, ...]:
        """Set the memories of transforms to zero, if the clients send the rest by themselves."""
        return tuple(
            jax.tree.map(jnp.zeros_like, own)
            if transform.remembers and algorithm.traits.resends
            else own
            for transform, own in zip(transforms, states, strict=True)
        )

    sent, states = transformed(transforms, messages, info, forgotten(state[:-1]), keys)
    sent, after = jax.vmap(algorithm.after_sending)(clients, messages, sent)
    counts = info.num_examples > 0
    clients = jax.tree.map(
        lambda new, old: jnp.where(broadcast_rows(counts, new), new, old), after, clients
    )
    if algorithm.received is not None:
        sent = jax.vmap(algorithm.received, in_axes=(None, 0, 0))(server, clients, sent)
    message, new = last.update(sent, info, state[-1], keys[-1])
    return clients, (message, (*forgotten(states), new))


def serve(
    algorithm: FederatedAlgorithm,
    aggregator: Aggregator,
    state: FederatedState,
    results: ClientOutput,
    there: Array | None,
    key: Key,
) -> FederatedState:
    """Run the server's part of a round, on the output of the clients at the indices `there`.

    Raises:
        UserError: The aggregator needs the clients' losses, and the algorithm does not report them.
    """
    if aggregator.needs_loss and LOSS_BEFORE not in results.metrics:
        raise UserError(
            "the aggregator weighs clients by their loss under the global model, and the algorithm "
            "does not report it: wrap it in fedjax_med.algorithms.report_loss(algorithm, trainer)."
        )
    server, clients = state.server, results.state
    if algorithm.process_updates is not None:
        server, clients = algorithm.process_updates(server, results)
    weight = results.num_examples
    place = jnp.arange(weight.shape[0], dtype=jnp.int32) if there is None else there
    loss = results.metrics.get(LOSS_BEFORE, jnp.zeros_like(weight))
    info = ClientInfo(weight, place, loss, results.cluster)
    by_cluster = per_cluster(aggregator, algorithm.num_clusters)
    if algorithm.after_sending is None or by_cluster.chained is None:
        reduced = by_cluster.update(results.update, info, state.aggregator, key)
    else:
        given = (results.update, info, state.aggregator, key)
        clients, reduced = _follow(algorithm, by_cluster, server, clients, *given)
    message, aggregator_state = reduced
    server = server_step(algorithm, aggregator, server, message, jnp.any(weight > 0))
    if there is not None:
        clients = jax.tree.map(lambda all_, new: all_.at[there].set(new), state.clients, clients)
    return FederatedState(state.round + 1, server, clients, aggregator_state)
