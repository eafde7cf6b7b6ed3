"""The rounds of a run: trained, validated, told and saved, until the last or until a signal."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_med.core.communication import Traffic
from fedjax_med.core.round import FedState
from fedjax_med.errors import UserError
from fedjax_med.evaluation.predict import Models, Validation, pool, validate
from fedjax_med.execution import multihost
from fedjax_med.execution.prefetch import Feed, Turn
from fedjax_med.experiment import build, config, load_data, privacy_plan
from fedjax_med.run import message_log
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.metrics_writer import Progress, check_finite, record
from fedjax_med.run.profiling import Profile


def _models(assembly: build.Assembly, state: FedState) -> Models:
    """What is validated: the global model, or each client's own; every process has to call it."""
    if assembly.personal is None:
        return multihost.local(state.server.params)
    return build.own_models(assembly, multihost.gather(state))


def _validate(
    assembly: build.Assembly, models: Models, validation: Validation, number: int
) -> dict[str, Any]:
    try:
        return validate(assembly.model, models, validation)
    except UserError as error:
        raise UserError(f"round {number}: {error}") from error


class Run(NamedTuple):
    """What the rounds need that does not change."""

    experiment: config.Experiment
    workdir: Path
    assembly: build.Assembly
    data: load_data.Federation
    tag: dict[str, Any]  # the identity
    promise: privacy_plan.Promise | None
    checkpoints: Checkpoints
    profile: Profile
    feed: Feed
    traffic: Traffic | None  # of one client in one round; None where nothing crosses a network


def _compile_together(
    assembly: build.Assembly, state: FedState, turn: Turn, compiled: set[Any]
) -> None:
    """All processes compile before any of them runs: devices wait for each other for 30 s only."""
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(turn.data))
    with multihost.together():
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
    state = multihost.place(state, assembly.placement.state)
    validation, last = pool(run.data.validation), last_round(experiment, run.promise)
    privacy_plan.check_spent(run.promise, int(state.round))
    done, signal, compiled = int(state.round), 0, set[Any]()
    for number in range(done + 1, last + 1):
        began = time.monotonic()
        profile.begin(number)
        with profile.part("data"), multihost.together():
            turn = run.feed.get(number)
        if multihost.active():
            with profile.part("compilation"):
                _compile_together(assembly, state, turn, compiled)
        with profile.part("training"):
            state, result = assembly.run_round(state, turn.data, turn.places)
            client_metrics: dict[str, Any] = jax.device_get(result)
        due = number % experiment.checkpoint.every == 0 or number == last
        scores: dict[str, Any] = {}
        with profile.part("validation"), multihost.together():
            if assembly.method.keep_updates:
                multihost.on_main(message_log.save, run.workdir, number, client_metrics)
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
        signal = multihost.first_signal(stop)
        with profile.part("checkpoint"):
            if due or signal:
                multihost.on_main(_save, run, progress, multihost.gather(state), scores)
        profile.end(number)
        done = number
        if signal:
            break
    multihost.on_main(checkpoints.wait)
    return done, signal


def _save(run: Run, progress: Progress, state: FedState, scores: dict[str, Any]) -> None:
    """Save the state after a round, with the records of all rounds until then."""
    progress.settle()
    tag = run.tag | privacy_plan.tag(run.promise, int(state.round))
    run.checkpoints.save(state, tag, scores, progress.records)


def last_round(experiment: config.Experiment, promise: privacy_plan.Promise | None) -> int:
    """The number of the last round, which a privacy budget may bring forward."""
    return promise.rounds if promise else experiment.rounds
