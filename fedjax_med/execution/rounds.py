"""The loop over rounds: loads a round's data, trains, and yields the metrics."""

import contextlib
import time
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

import jax

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.round import RoundBatch
from fedjax_med.core.types import Key
from fedjax_med.data.client_data import ClientData
from fedjax_med.execution import multihost
from fedjax_med.execution.compilation import CompiledProcess, round_loader


class RoundResult(NamedTuple):
    """The result of one round.

    Attributes:
        round: the round's number, from 1.
        state: after the round; `Simulation.rounds` keeps it usable, `rounds` donates it when the
            next round is requested.
        metrics: arrays [S], one value for each client of the cohort, on the host: "client" (its
            index), "weight" (its examples; 0: its update did not count), "finite"; and of its local
            training "loss", "correct" and "count", sums over all steps, and "steps".
        began: when the round began, by `time.monotonic`.
    """

    round: int
    state: FederatedState
    metrics: dict[str, Any]
    began: float

    @property
    def train_loss(self) -> float:
        """Return the mean training loss over the examples of all clients of the cohort."""
        return float(self.metrics["loss"].sum() / max(self.metrics["count"].sum(), 1))


class Timer(Protocol):
    """Interface of a timer for the parts of a round."""

    def begin(self, number: int) -> None:
        """Begin round `number`."""

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return a context for one part of a round: "data", "compilation" or "training"."""


class _NoTimer:
    def begin(self, number: int) -> None:
        del number

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        del name
        return contextlib.nullcontext()


def rounds(
    compiled: CompiledProcess,
    state: FederatedState,
    clients: ClientData,
    key: Key,
    *,
    num_rounds: int,
    timer: Timer | None = None,
) -> Generator[RoundResult, None, None]:
    """Yield the rounds after those of `state`, up to round `num_rounds`; each runs on request.

    All processes run the same rounds. Close the generator if it is not exhausted.

    Args:
        compiled: for these clients, on this machine.
        state: after the previous rounds; its arrays are donated.
        clients: the clients' training data.
        key: of all rounds.
        num_rounds: the last round's number.
        timer: times the parts of each round.

    Raises:
        UserError: The images on disk cannot be read.
    """
    timer = timer or _NoTimer()
    state = multihost.place(state, compiled.placement.state)
    shapes = set[Any]()
    with contextlib.closing(round_loader(compiled, clients, key, num_rounds)) as loader:
        for number in range(int(state.round) + 1, num_rounds + 1):
            began = time.monotonic()
            timer.begin(number)
            with timer.part("data"), multihost.together():
                batch = loader.get(number)
            if multihost.active():
                with timer.part("compilation"):
                    _compile_together(compiled, state, batch, key, shapes)
            with timer.part("training"):
                state, metrics = compiled.run_round(state, batch, key)
                on_host: dict[str, Any] = jax.device_get(metrics)
            yield RoundResult(number, state, on_host, began)


def _compile_together(
    compiled: CompiledProcess, state: FederatedState, batch: RoundBatch, key: Key, done: set[Any]
) -> None:
    """Compile in all processes before any of them runs: devices wait only 30 s for each other."""
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch.data))
    with multihost.together():
        if shapes not in done:
            compiled.lower(state, batch, key).compile()
    done.add(shapes)
