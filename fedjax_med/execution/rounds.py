"""The loop over rounds: loads a round's data, trains, and yields the metrics."""

import contextlib
import time
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

import jax

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.data.client_data import ClientData
from fedjax_med.execution import multihost
from fedjax_med.execution.prefetch import RoundBatch
from fedjax_med.execution.simulation import Simulation, round_loader


class RoundResult(NamedTuple):
    """The result of one round."""

    round: int  # the round's number, from 1
    state: FederatedState  # after the round; donated when the next round is requested
    metrics: dict[str, Any]  # of each client of the cohort [S], on the host
    began: float  # when the round began, by `time.monotonic`


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
    simulation: Simulation,
    state: FederatedState,
    clients: ClientData,
    *,
    num_rounds: int,
    timer: Timer | None = None,
) -> Generator[RoundResult, None, None]:
    """Yield the rounds after those of `state`, up to round `num_rounds`; each runs on request.

    All processes run the same rounds. Close the generator if it is not exhausted.

    Args:
        simulation: compiled for this machine.
        state: after the previous rounds; its arrays are donated.
        clients: the clients' training data.
        num_rounds: the last round's number.
        timer: times the parts of each round.

    Raises:
        UserError: The images on disk cannot be read.
    """
    timer = timer or _NoTimer()
    state = multihost.place(state, simulation.placement.state)
    compiled = set[Any]()
    with contextlib.closing(round_loader(simulation, clients, num_rounds)) as loader:
        for number in range(int(state.round) + 1, num_rounds + 1):
            began = time.monotonic()
            timer.begin(number)
            with timer.part("data"), multihost.together():
                batch = loader.get(number)
            if multihost.active():
                with timer.part("compilation"):
                    _compile_together(simulation, state, batch, compiled)
            with timer.part("training"):
                state, metrics = simulation.run_round(state, batch.data, batch.places)
                on_host: dict[str, Any] = jax.device_get(metrics)
            yield RoundResult(number, state, on_host, began)


def _compile_together(
    simulation: Simulation, state: FederatedState, batch: RoundBatch, compiled: set[Any]
) -> None:
    """Compile in all processes before any of them runs: devices wait only 30 s for each other."""
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch.data))
    with multihost.together():
        if shapes not in compiled:
            simulation.lower(state, batch.data, batch.places).compile()
    compiled.add(shapes)
