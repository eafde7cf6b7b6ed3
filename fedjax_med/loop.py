"""The rounds of a run: trained, validated, told and saved, until the last or until a signal."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_med import assemble, clients, config, distributed, private, updates
from fedjax_med.checkpoint import Checkpoints
from fedjax_med.communication import Traffic
from fedjax_med.errors import UserError
from fedjax_med.evaluate import Models, Validation, pool, validate
from fedjax_med.federated import FedState
from fedjax_med.feed import Feed, Turn
from fedjax_med.profiling import Profile
from fedjax_med.progress import Progress, check_finite, record


def _models(assembly: assemble.Assembly, state: FedState) -> Models:
    """What is validated: the global model, or each client's own; every process has to call it."""
    if assembly.personal is None:
        return distributed.local(state.server.params)
    return assemble.own_models(assembly, distributed.gather(state))


def _validate(
    assembly: assemble.Assembly, models: Models, validation: Validation, number: int
) -> dict[str, Any]:
    try:
        return validate(assembly.model, models, validation)
    except UserError as error:
        raise UserError(f"round {number}: {error}") from error


class Run(NamedTuple):
    """What the rounds need that does not change."""

    experiment: config.Experiment
    workdir: Path
    assembly: assemble.Assembly
    data: clients.Federation
    tag: dict[str, Any]  # the identity
    promise: private.Promise | None
    checkpoints: Checkpoints
    profile: Profile
    feed: Feed
    traffic: Traffic | None  # of one client in one round; None where nothing crosses a network


def _compile_together(
    assembly: assemble.Assembly, state: FedState, turn: Turn, compiled: set[Any]
) -> None:
    """All processes compile before any of them runs: devices wait for each other for 30 s only."""
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(turn.data))
    with distributed.together():
        if shapes not in compiled:
            assembly.lower(state, turn.data, turn.places).compile()
    compiled.add(shapes)


def run_rounds(
    run: Run, state: FedState, progress: Progress | None, stop: list[int]
) -> tuple[int, int]:
    """Run the rounds that are left, or until `stop` holds a signal.

    All processes run the same rounds; the first one, which has `progress`, validates and writes.

    Returns:
        The rounds that are done, and the signal or 0.
    """
    experiment, assembly, checkpoints, profile = run[0], run.assembly, run.checkpoints, run.profile
    state = distributed.place(state, assembly.placement.state)
    validation, last = pool(run.data.validation), last_round(experiment, run.promise)
    private.check_spent(run.promise, int(state.round))
    done, signal, compiled = int(state.round), 0, set[Any]()
    for number in range(done + 1, last + 1):
        began = time.monotonic()
        profile.begin(number)
        with profile.part("data"), distributed.together():
            turn = run.feed.get(number)
        if distributed.active():
            with profile.part("compilation"):
                _compile_together(assembly, state, turn, compiled)
        with profile.part("training"):
            state, result = assembly.run_round(state, turn.data, turn.places)
            client_metrics: dict[str, Any] = jax.device_get(result)
        due = number % experiment.checkpoint.every == 0 or number == last
        scores: dict[str, Any] = {}
        with profile.part("validation"), distributed.together():
            if assembly.method.keep_updates:
                distributed.on_main(updates.save, run.workdir, number, client_metrics)
                del client_metrics["message"]
            check_finite(client_metrics, state, number, checkpoints.last_good)
            # The best checkpoint is chosen by its validation.
            if due or number % experiment.validate_every == 0:
                models = _models(assembly, state)
                scores = _validate(assembly, models, validation, number) if progress else {}
            if progress:
                spent = run.promise and run.promise.spent(number)
                seconds = time.monotonic() - began
                one = record(number, client_metrics, scores, seconds, run.traffic, spent)
                progress.add(one)
        signal = distributed.first_signal(stop)
        with profile.part("checkpoint"):
            if due or signal:
                distributed.on_main(_save, run, progress, distributed.gather(state), scores)
        profile.end(number)
        done = number
        if signal:
            break
    distributed.on_main(checkpoints.wait)
    return done, signal


def _save(run: Run, progress: Progress, state: FedState, scores: dict[str, Any]) -> None:
    """Save the state after a round, with the records of all rounds until then."""
    progress.settle()
    tag = run.tag | private.tag(run.promise, int(state.round))
    run.checkpoints.save(state, tag, scores, progress.records)


def last_round(experiment: config.Experiment, promise: private.Promise | None) -> int:
    """The number of the last round, which a privacy budget may bring forward."""
    return promise.rounds if promise else experiment.rounds
