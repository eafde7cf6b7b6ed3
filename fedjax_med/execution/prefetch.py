"""Loads each round's data onto the device: all clients once, or the next cohort ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from fedjax_med.core.client_map import ClientMap
from fedjax_med.core.round import RoundBatch
from fedjax_med.core.types import Array, Examples
from fedjax_med.data import client_data
from fedjax_med.execution import bucketing, multihost, sharding


class RoundLoader:
    """Loads each round's data; at most two cohorts are in memory, however many clients there are.

    A cohort depends on the seed, the round and the clients' sizes alone, so a thread reads and
    stacks the next cohort and puts it on the device while this round trains. Where all clients
    train, they are put there once, in buckets of similar size if computed side by side.

    The clients' `min_capacity` adds padding, which changes no bit of a state: the buckets are those
    without it, and clients that do not fill a batch keep their shape, on which the batch depends.

    Args:
        clients: the clients' data.
        choose: ``(rounds done, sizes) -> cohort``; None: all clients.
        client_map: the client map.
        batch_size: of local training.
        last_round: the last round to read ahead.
    """

    def __init__(
        self,
        clients: client_data.ClientData,
        choose: Callable[[ArrayLike, Array], Array] | None,
        client_map: ClientMap,
        batch_size: int,
        last_round: int,
    ) -> None:
        self._clients, self._choose, self._client_map = clients, choose, client_map
        self._batch_size, self._last_round = batch_size, last_round
        self._last: RoundBatch | None = None
        self._last_cohort: list[int] = []
        self._ahead: dict[int, Future[RoundBatch]] = {}
        self._thread = ThreadPoolExecutor(1, "round_loader")

    def get(self, number: int) -> RoundBatch:
        """Return the batch of round `number`, counted from 1, and begin to load the next one.

        Raises:
            UserError: The images on disk cannot be read.
        """
        if self._choose is None:
            self._last = self._last or self._everyone()
            return self._last
        batch = self._ahead.pop(number, None) or self._thread.submit(self._cohort, number)
        given = batch.result()
        if number < self._last_round:
            self._ahead[number + 1] = self._thread.submit(self._cohort, number + 1)
        return given

    def close(self) -> None:
        """End the thread after its current read."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def largest(self) -> RoundBatch:
        """Return the shapes of the largest batch that a round may have; read nothing."""
        sizes = self._clients.sizes
        if self._choose is not None:
            number = jax.ShapeDtypeStruct((), jnp.int32)
            places = jax.eval_shape(self._choose, number, sizes)
            return RoundBatch(self._shapes(places.shape[0], int(sizes.max())), (places,))
        groups = self._groups()
        data = tuple(self._shapes(len(group), int(sizes[group].max())) for group in groups)
        places = tuple(jax.ShapeDtypeStruct(group.shape, jnp.int32) for group in groups)
        return RoundBatch(data[0], None) if len(groups) == 1 else RoundBatch(data, places)

    def _shapes(self, clients: int, capacity: int) -> Examples:
        places = sharding.of(self._client_map, clients)
        return client_data.stacked_shapes(
            self._clients.split, places.rows, self._capacity(capacity), sharding=places.data
        )

    def _capacity(self, needed: int) -> int:
        """Return N of stacked clients, the largest of which needs room for `needed` examples."""
        fills = 0 < self._batch_size <= needed
        return max(needed, self._clients.min_capacity if fills else 1)

    def _groups(self) -> list[npt.NDArray[np.int64]]:
        """Group all clients into the buckets that are computed side by side."""
        if self._client_map.sequential:  # it takes no step for a batch of padding alone
            return [np.arange(len(self._clients.indices))]
        return bucketing.buckets(self._clients.sizes, self._batch_size, self._devices())

    def _devices(self) -> int:
        return jax.device_count() if self._client_map.sharded else 1

    def _everyone(self) -> RoundBatch:
        groups = self._groups()
        if len(groups) == 1:
            return RoundBatch(self._stacked(groups[0]), None)
        places = tuple(group.astype(np.int32) for group in groups)
        return RoundBatch(tuple(map(self._stacked, groups)), places)  # type: ignore[arg-type]

    def _cohort(self, number: int) -> RoundBatch:
        assert self._choose is not None
        sizes = self._clients.sizes
        cohort = np.asarray(self._choose(jnp.int32(number - 1), jnp.asarray(sizes)))
        if self._last and cohort.tolist() == self._last_cohort:
            return self._last
        if self._client_map.sequential:
            capacity = bucketing.capacity_on_grid(
                int(sizes[cohort].max()), int(sizes.max()), self._batch_size
            )
            groups = [(cohort, capacity)]
        else:
            groups = bucketing.cohort_buckets(cohort, sizes, self._batch_size, self._devices())
        # Stay on the host; jit puts them where the client map needs them.
        places: Any = tuple(group for group, _ in groups)
        data = tuple(self._stacked(*group) for group in groups)
        self._last = RoundBatch(data[0] if len(data) == 1 else data, places)
        self._last_cohort = cohort.tolist()
        return self._last

    def _stacked(self, clients: npt.NDArray[np.integer], capacity: int = 0) -> Examples:
        parts = [self._clients.indices[client] for client in clients]
        places = sharding.of(self._client_map, len(parts))
        capacity = self._capacity(max([capacity, *map(len, parts)]))
        filled = client_data.fill_clients(
            client_data.stack(self._clients.split, parts, capacity), places.rows
        )
        return multihost.place(filled, places.data)  # type: ignore[no-any-return]
