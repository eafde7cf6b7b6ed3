"""Trains, validates, writes and saves the rounds of a run, until the last or until a signal."""

import contextlib
import time
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.communication import Traffic
from fedjax_med.core.types import Key
from fedjax_med.data.federation import Federation
from fedjax_med.errors import UserError
from fedjax_med.evaluation.predict import Models, Validation, pool, validate
from fedjax_med.execution import multihost
from fedjax_med.execution.compilation import CompiledProcess, own_models
from fedjax_med.execution.rounds import RoundResult, rounds
from fedjax_med.experiment.plan import Plan
from fedjax_med.privacy.plan import check_spent, to_json
from fedjax_med.run import message_log
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.metrics_writer import MetricsWriter, check_finite, record
from fedjax_med.run.profiling import Profile


class RunContext(NamedTuple):
    """The parts of a run that stay the same in all rounds.

    workdir: of the run.
    plan: of the run.
    compiled: the plan's process, for this machine.
    key: of all rounds.
    data: the clients' data.
    tag: the run's identity.
    checkpoints: of the workdir.
    profile: of the rounds that are profiled.
    writer: of the metrics, in the first process; None in others.
    traffic: of one client in one round; None where nothing crosses a network.
    """

    workdir: Path
    plan: Plan
    compiled: CompiledProcess
    key: Key
    data: Federation
    tag: dict[str, Any]
    checkpoints: Checkpoints
    profile: Profile
    writer: MetricsWriter | None
    traffic: Traffic | None


def run_rounds(run: RunContext, state: FederatedState, stop: list[int]) -> tuple[int, int]:
    """Run the remaining rounds, or until `stop` holds a signal.

    All processes run the same rounds; the first one, which has a writer, validates and writes.

    Args:
        run: the parts that stay the same.
        state: after the rounds done so far; its arrays are donated.
        stop: gets a signal's number when one is received.

    Returns:
        The number of rounds done, and the signal or 0.
    """
    plan, profile = run.plan, run.profile
    validation, signal, done = pool(run.data.validation), 0, int(state.round)
    check_spent(plan.privacy, done)
    train, last = run.data.train, plan.last_round
    left = rounds(run.compiled, state, train, run.key, num_rounds=last, timer=profile)
    with contextlib.closing(left):
        for result in left:
            done, due = result.round, _is_due(plan, result.round)
            with profile.part("validation"), multihost.together():
                _log_messages(run, result)
                check_finite(result.metrics, result.state, done, run.checkpoints.last_good)
                scores = _validate(run, result, validation, due)
                _write(run, result, scores)
            signal = multihost.first_signal(stop)
            with profile.part("checkpoint"):
                if due or signal:
                    multihost.on_main(_save, run, multihost.gather(result.state), scores)
            profile.end(done)
            if signal:
                break
    multihost.on_main(run.checkpoints.wait)
    return done, signal


def _is_due(plan: Plan, number: int) -> bool:
    """Return whether the state after round `number` is saved."""
    return number % plan.experiment.checkpoint.every == 0 or number == plan.last_round


def _log_messages(run: RunContext, result: RoundResult) -> None:
    """Save the clients' messages if requested, and remove them from the metrics."""
    if run.plan.process.keep_updates:
        multihost.on_main(message_log.save, run.workdir, result.round, result.metrics)
        del result.metrics["message"]


def _validate(
    run: RunContext, result: RoundResult, validation: Validation, due: bool
) -> dict[str, Any]:
    """Validate the model; return {} if that is not due, and in all processes but the first."""
    # A round to save is always validated: the best checkpoint is chosen by validation.
    if not due and result.round % run.plan.experiment.validate_every:
        return {}
    models = _models(run.compiled, result.state)
    if run.writer is None:
        return {}
    try:
        return validate(run.plan.model, models, validation)
    except UserError as error:
        raise UserError(f"round {result.round}: {error}") from error


def _models(compiled: CompiledProcess, state: FederatedState) -> Models:
    """Return the global model, or the personal models; every process has to call it."""
    if compiled.personal is None:
        return multihost.local(state.server.params)
    return own_models(compiled, multihost.gather(state))


def _write(run: RunContext, result: RoundResult, scores: dict[str, Any]) -> None:
    """Write the round's line of metrics."""
    if run.writer is not None:
        privacy = run.plan.privacy
        spent = privacy and privacy.spent(result.round)
        seconds = time.monotonic() - result.began
        run.writer.add(record(result.round, result.metrics, scores, seconds, run.traffic, spent))


def _save(run: RunContext, state: FederatedState, scores: dict[str, Any]) -> None:
    """Save the state after a round, with the records of all rounds until then."""
    assert run.writer is not None
    run.writer.settle()
    tag = run.tag | to_json(run.plan.privacy, int(state.round))
    run.checkpoints.save(state, tag, scores, run.writer.records)
