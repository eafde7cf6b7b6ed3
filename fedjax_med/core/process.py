"""A federated process: the parts of a round, its initial state, and the round itself."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import Aggregator, MessageTransform, per_cluster
from fedjax_med.core.algorithm import (
    ClientOutput,
    Cohort,
    FederatedAlgorithm,
    FederatedState,
    message_of,
)
from fedjax_med.core.client_map import MapClients
from fedjax_med.core.faults import Faults, accept_updates
from fedjax_med.core.random import Stream
from fedjax_med.core.round import (
    RoundBatch,
    choose,
    client_function,
    clients_of,
    cohort_size,
    in_order,
    round_keys,
    serve,
)
from fedjax_med.core.trees import take, zeros_like_shapes
from fedjax_med.core.types import Array, Examples, Key, Metrics, Params
from fedjax_med.errors import UserError, calling, check_kind, check_signature, optimizers

_UPDATE = "messages, client_info, state, key"


class Process(NamedTuple):
    """Algorithm x transforms x aggregator x cohort x faults: an initial state and one round, pure.

    Attributes:
        algorithm: the computation of clients and server.
        aggregator: of the clients' messages, with its transforms
            (`fedjax_med.core.aggregation.chain`).
        cohort: selects a round's clients; None: all of them, so that no images need to be gathered.
        faults: the faults and attacks of clients.
        keep_updates: whether a round returns the clients' messages.
    """

    algorithm: FederatedAlgorithm
    aggregator: Aggregator
    cohort: Cohort | None = None
    faults: Faults = Faults()
    keep_updates: bool = False

    @property
    def transforms(self) -> tuple[MessageTransform, ...]:
        """Return the transforms of the messages, in order."""
        return () if self.aggregator.chained is None else self.aggregator.chained[0]

    @property
    def effective_faults(self) -> Faults:
        """Return the faults; under a robust aggregator with updates skipped that are not finite.

        Otherwise one client's NaN would end what is made to withstand hostile clients, or stay in
        the memory of a transform.
        """
        if not self.aggregator.is_robust:
            return self.faults
        participation = self.faults.participation._replace(skip_invalid=True)
        return self.faults._replace(participation=participation)

    def init(self, params: Params, data: Examples) -> FederatedState:
        """Build the state before the first round.

        Args:
            params: the initial global parameters.
            data: the clients' training examples, ``[C, N]``, or their shapes and dtypes.

        Raises:
            UserError: A part is of another kind, or a private aggregator was built for another
                participation rate.
        """
        check_parts(self)
        self._check_rate()
        num_clients = data.mask.shape[0]
        with optimizers():
            server, client = self.algorithm.init(params)
            message = zeros_like_shapes(message_of(self.algorithm, server, client, data))
        stacked = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_clients, *jnp.shape(leaf))), client
        )
        participants = num_clients if self.cohort is None else cohort_size(self.cohort, num_clients)
        aggregator = per_cluster(self.aggregator, self.algorithm.num_clusters)
        with calling("the aggregator's init"):
            aggregator_state = aggregator.init(message, num_clients, participants)
        return FederatedState(jnp.int32(0), server, stacked, aggregator_state)

    def round(
        self,
        state: FederatedState,
        batch: RoundBatch | Examples,
        key: Key,
        *,
        client_map: MapClients = jax.vmap,
    ) -> tuple[FederatedState, Metrics]:
        """Run one round: the clients' updates, their aggregation, the server's update.

        Pure, and meant to be jitted as a whole: one compiled program per round.

        Args:
            state: the state after `state.round` rounds.
            batch: the round's clients and their training examples; or those of all clients in
                order, ``[C, N]``, of which the cohort is taken.
            key: the experiment's key, the same in every round: the round's randomness is
                ``fold_in(key, state.round)``, so a resumed run draws the same numbers.
            client_map: maps a function of one client over all, as `jax.vmap` does; all of
                `fedjax_med.core.client_map.CLIENT_MAPS` give the same result.

        Returns:
            The state after one more round and the metrics of each client of the cohort, ``[S]``:
            those of the algorithm, "client" (its id), "weight" (its examples; 0: does not count)
            and "finite", whether its update is finite; under faults "present" (participated) and
            "counted"; with `keep_updates` "message" (before all transforms) and "group" (the
            cluster).

        Raises:
            UserError: A private aggregator was built for another participation rate.
        """
        self._check_rate()
        batch = self._cohort_of(state, batch, key) if isinstance(batch, Examples) else batch
        clients_key, aggregator_key = round_keys(key, state.round)
        shared = (state.server, state.round, clients_key)
        mapped = client_map(client_function(self.algorithm, self.faults), in_axes=(None, 0))
        clients = clients_of(state, batch)
        results = in_order([mapped(shared, bucket) for bucket in clients], batch.places)
        ids = in_order([bucket[2] for bucket in clients], batch.places)
        results = results._replace(metrics={**results.metrics, "client": ids})
        if not self.effective_faults.none:
            results = self._accepted(state, results, batch.indices, key)
        new = serve(self.algorithm, self.aggregator, state, results, batch.indices, aggregator_key)
        metrics = {**results.metrics, "weight": results.num_examples}
        if self.keep_updates:
            metrics |= {"message": results.update, "group": results.cluster}
        return new, metrics

    def _check_rate(self) -> None:
        """Refuse a private aggregator whose fixed denominator is that of another rate."""
        rate = self.faults.participation.participation_rate
        mechanism = self.aggregator.mechanism
        if mechanism is not None and not math.isclose(mechanism.participation_rate, rate):
            raise UserError(
                "expected the private aggregator to be built with the rate at which clients "
                f"participate, Participation(participation_rate={rate:g}), got rate="
                f"{mechanism.participation_rate:g}: give both the same (a cohort does not count: "
                "the rate is that of its clients)."
            )

    def _cohort_of(self, state: FederatedState, data: Examples, key: Key) -> RoundBatch:
        """Take the clients of the round from the examples of all, ``[C, N]``."""
        if self.cohort is None:
            return RoundBatch(data)
        sizes = jnp.sum(data.mask, axis=1, dtype=jnp.int32)
        there = choose(self.cohort, key, state.round, sizes)
        return RoundBatch(take(data, there), (there,))

    def _accepted(
        self, state: FederatedState, results: ClientOutput, there: Array | None, key: Key
    ) -> ClientOutput:
        """Apply the faults and attacks to the output of the clients at the indices `there`."""
        clients_key, _ = round_keys(key, state.round)
        before: Any = state.clients if there is None else take(state.clients, there)
        fold = functools.partial(jax.random.fold_in, clients_key)
        round_key = jax.random.fold_in(key, state.round)
        accepted: ClientOutput = accept_updates(
            self.effective_faults,
            results,
            before,
            jax.vmap(fold)(results.metrics["client"]),
            jax.random.fold_in(round_key, Stream.ATTACKERS),
        )
        return accepted


def check_parts(process: Process) -> None:
    """Refuse parts of another kind, such as swapped ones or a ``build`` that was not called.

    Raises:
        UserError: The message names the part.
    """
    check_kind("Process's algorithm", process.algorithm, FederatedAlgorithm)
    check_kind("Process's aggregator", process.aggregator, Aggregator)
    check_kind("Process's faults", process.faults, Faults)
    if process.cohort is not None:
        check_signature("a cohort, which build(num_clients) returns,", process.cohort, "key, sizes")
    transforms, last = process.aggregator.chained or ((), process.aggregator)
    for part in transforms:
        check_signature("a transform's init", part.init, "message, num_clients")
        check_signature("a transform's update", part.update, _UPDATE)
    check_signature("the aggregator's init", last.init, "message, num_clients, num_senders")
    check_signature("the aggregator's update", last.update, _UPDATE)
