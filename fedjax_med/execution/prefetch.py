"""What each round trains on, on the device: everyone at once, or the next cohort read ahead."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike

from fedjax_med.core import round as federated
from fedjax_med.core.types import Array, Examples
from fedjax_med.data import client_data
from fedjax_med.execution import multihost, sharding


class Turn(NamedTuple):
    """Who trains in a round and on what, as `fedjax_med.core.round.run_round` takes them."""

    data: Examples | federated.Buckets
    places: federated.Places


class Feed:
    """Gives each round its turn; at most two cohorts are in memory, whoever else there is.

    A cohort depends on the seed, the round and the clients' sizes alone, so the one of the next
    round is read, stacked and put on the device by a thread while this round trains. Where everyone
    trains, all are put there once, in buckets of like size if clients are computed side by side.

    Args:
        held: who holds what.
        choose: from the rounds done and the sizes to who trains; None is everyone.
        strategy: how clients are mapped, one of `fedjax_med.core.client_map.STRATEGIES`.
        batch_size: of the clients' training.
        rounds: the last round.
    """

    def __init__(
        self,
        held: client_data.Held,
        choose: Callable[[ArrayLike, Array], Array] | None,
        strategy: str,
        batch_size: int,
        rounds: int,
    ) -> None:
        self._held, self._choose, self._strategy = held, choose, strategy
        self._batch_size, self._rounds = batch_size, rounds
        self._last: Turn | None = None
        self._last_cohort: list[int] = []
        self._ahead: dict[int, Future[Turn]] = {}
        self._thread = ThreadPoolExecutor(1, "feed")

    def get(self, number: int) -> Turn:
        """The turn of round `number`, counted from 1; the one after it is then begun.

        Raises:
            UserError: The images on disk cannot be read.
        """
        if self._choose is None:
            self._last = self._last or self._everyone()
            return self._last
        turn = self._ahead.pop(number, None) or self._thread.submit(self._cohort, number)
        given = turn.result()
        if number < self._rounds:
            self._ahead[number + 1] = self._thread.submit(self._cohort, number + 1)
        return given

    def close(self) -> None:
        """End the thread, after what it is reading."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def largest(self) -> Turn:
        """The shapes of the largest turn that a round may have; nothing is read."""
        sizes = self._held.sizes
        if self._choose is not None:
            number = jax.ShapeDtypeStruct((), jnp.int32)
            places = jax.eval_shape(self._choose, number, sizes)
            return Turn(self._shapes(places.shape[0], self._held.room), (places,))
        groups = self._groups()
        data = tuple(self._shapes(len(group), int(sizes[group].max())) for group in groups)
        places = tuple(jax.ShapeDtypeStruct(group.shape, jnp.int32) for group in groups)
        return Turn(data[0], None) if len(groups) == 1 else Turn(data, places)

    def _shapes(self, clients: int, room: int) -> Examples:
        places, images = sharding.of(self._strategy, clients), self._held.split.image
        lead = (places.rows, max(room, 1))
        kinds = (
            ((*lead, *images.shape[1:]), images.dtype),
            (lead, jnp.int32),
            (lead, jnp.bool_),
        )
        leaves: Any = [
            jax.ShapeDtypeStruct(shape, kind, sharding=places.data) for shape, kind in kinds
        ]
        return Examples(*leaves)

    def _groups(self) -> list[npt.NDArray[np.int64]]:
        """Where everyone trains, who is computed with whom."""
        if "sequential" in self._strategy:  # a batch of padding alone takes no step there
            return [np.arange(len(self._held.parts))]
        return client_data.buckets(self._held.sizes, self._batch_size, self._devices())

    def _devices(self) -> int:
        return jax.device_count() if self._strategy.startswith("sharded") else 1

    def _everyone(self) -> Turn:
        groups = self._groups()
        if len(groups) == 1:
            return Turn(self._stacked(groups[0]), None)
        places = tuple(group.astype(np.int32) for group in groups)
        return Turn(tuple(map(self._stacked, groups)), places)  # type: ignore[arg-type]

    def _cohort(self, number: int) -> Turn:
        assert self._choose is not None
        sizes = self._held.sizes
        cohort = np.asarray(self._choose(jnp.int32(number - 1), jnp.asarray(sizes)))
        if self._last and cohort.tolist() == self._last_cohort:
            return self._last
        if "sequential" in self._strategy:
            room = client_data.room_on_grid(
                int(sizes[cohort].max()), self._held.room, self._batch_size
            )
            groups = [(cohort, room)]
        else:
            groups = client_data.cohort_buckets(cohort, sizes, self._batch_size, self._devices())
        # On the host, for jit to put wherever the strategy wants them.
        places: Any = tuple(group for group, _ in groups)
        data = tuple(self._stacked(*group) for group in groups)
        self._last = Turn(data[0] if len(data) == 1 else data, places)
        self._last_cohort = cohort.tolist()
        return self._last

    def _stacked(self, clients: npt.NDArray[np.integer], room: int = 0) -> Examples:
        parts = [self._held.parts[client] for client in clients]
        places = sharding.of(self._strategy, len(parts))
        filled = client_data.fill_clients(
            client_data.stack(self._held.split, parts, room), places.rows
        )
        return multihost.place(filled, places.data)  # type: ignore[no-any-return]
