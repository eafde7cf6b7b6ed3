"""Trains one experiment in its workdir, or resumes it where it stopped."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.data.audit import report as audit_report
from fedjax_med.data.federation import Federation
from fedjax_med.evaluation import tables
from fedjax_med.execution import multihost, simulation
from fedjax_med.experiment import config, load_data, resolve
from fedjax_med.experiment.plan import Plan, check_before_data, make_plan, simulate
from fedjax_med.experiment.resolve import Resolved
from fedjax_med.files import writing
from fedjax_med.privacy.plan import to_json
from fedjax_med.run import console, noise_key
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.evaluate import check_test, evaluate_run
from fedjax_med.run.loop import RunContext, run_rounds
from fedjax_med.run.metrics_writer import MetricsWriter
from fedjax_med.run.profiling import Profile, parse_rounds
from fedjax_med.run.provenance import code_version, flat, identity
from fedjax_med.run.resume import Start, find_start
from fedjax_med.run.signals import stop_requests
from fedjax_med.run.workdir import exclusive


class TrainJob(NamedTuple):
    """An experiment to train, its data and its workdir.

    experiment: completed (`fedjax_med.experiment.resolve.complete`).
    data_dir: the folder of the images, or "".
    cache_dir: where prepared data is kept.
    workdir: of the run.
    evaluate: the checkpoint to evaluate when training is complete: best, last or none ("").
    profile_rounds: the rounds to profile, such as 3-5, or "".
    begin_anew: whether to begin anew if none of the workdir's checkpoints can be read.
    """

    experiment: config.Experiment
    data_dir: str
    cache_dir: str
    workdir: Path
    evaluate: str = ""
    profile_rounds: str = ""
    begin_anew: bool = False


def train(job: TrainJob) -> int:
    """Train, or resume where training stopped.

    Returns:
        The exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: The experiment, the data or the workdir is not usable.
    """
    resolved = resolve.settle(job.experiment)
    check_before_data(resolved)
    parse_rounds(job.profile_rounds)
    with contextlib.ExitStack() as held:
        multihost.on_main(held.enter_context, exclusive(job.workdir))
        return _train(job, resolved)


def train_all(jobs: Sequence[TrainJob]) -> int:
    """Train the jobs in order; complete ones are only evaluated. Return the exit code."""
    for number, job in enumerate(jobs, 1):
        print(f"\n[{number} of {len(jobs)}] {job.workdir}", flush=True)
        if code := train(job):
            return code
    return 0


def _train(job: TrainJob, resolved: Resolved) -> int:
    data = multihost.main_first(load_data.load, resolved.asked, job.data_dir, job.cache_dir)
    multihost.check_same(_same_everywhere(resolved.asked, data))
    print(data.summary)
    if job.evaluate:
        check_test(data)
    with contextlib.closing(Checkpoints(job.workdir, job.experiment.checkpoint)) as checkpoints:
        before = multihost.text_from_main(checkpoints.client_map)
        plan = make_plan(resolved, data.class_counts, data.train.sizes, before=before)
        done, signal = _run(job, plan, data, checkpoints)
    if job.evaluate and done == plan.last_round:
        multihost.on_main(evaluate_run, job.workdir, plan, data, job.evaluate)
    # Also after the last round: a stopped `train_all` must not start its next run.
    return 128 + signal if signal else 0


def _run(job: TrainJob, plan: Plan, data: Federation, checkpoints: Checkpoints) -> tuple[int, int]:
    """Run the remaining rounds; return the number of rounds done, and the signal or 0."""
    noise = noise_key.noise_source(
        plan.experiment, plan.privacy, job.workdir, checkpoints.last_identity, data.digest
    )
    compiled = simulation.fit_to_memory(simulate(plan, noise and noise.key), data.train)
    template = compiled.init(data.train.shapes())
    tag = identity(config.to_dict(plan.experiment), data.digest, compiled.backend.client_map)
    tag |= to_json(plan.privacy, 0, noise)
    begun = multihost.on_main(_begin, job, data, checkpoints, template, tag)
    state = multihost.from_main(begun.state if begun else template)
    start, traffic = int(state.round), None
    if plan.experiment.setting == "federated":
        traffic = simulation.traffic(compiled, data.train.shapes())
    console.say_start(plan, compiled.backend, data, start, traffic)
    with contextlib.ExitStack() as opened:
        wanted = parse_rounds(job.profile_rounds) if multihost.is_main() else range(0)
        profile = opened.enter_context(contextlib.closing(Profile(job.workdir, wanted)))
        profile.check(start + 1, plan.last_round)
        writer = multihost.on_main(
            MetricsWriter, job.workdir, start, plan.last_round, begun and begun.records
        )
        if writer is not None:
            opened.enter_context(contextlib.closing(writer))
        run = RunContext(
            job.workdir, plan, compiled, data, tag, checkpoints, profile, writer, traffic
        )
        with stop_requests() as stop:
            done, signal = run_rounds(run, state, stop)
    multihost.on_main(console.say_end, job.workdir, data, writer, done, signal, plan.last_round)
    return done, signal


def _begin(
    job: TrainJob,
    data: Federation,
    checkpoints: Checkpoints,
    template: FederatedState,
    tag: dict[str, Any],
) -> Start:
    """Find where the run resumes, and record the experiment in the workdir."""
    start = find_start(job.workdir, checkpoints, template, tag, job.begin_anew)
    checkpoints.remove_after(int(start.state.round))
    _write_experiment(job, data, tag)
    return start


def _write_experiment(job: TrainJob, data: Federation, tag: dict[str, Any]) -> None:
    with writing(job.workdir):
        tables.write_json(
            {
                "experiment": config.to_dict(job.experiment),
                "data_dir": str(Path(job.data_dir).expanduser().absolute()) if job.data_dir else "",
                "cache_dir": str(Path(job.cache_dir).expanduser().absolute()),
                "code": code_version(),
                "data": data.digest,
                "test": data.test_digest,
                "class_names": list(data.class_names),
                **{name: tag[name] for name in ("privacy",) if name in tag},
            },
            job.workdir / "experiment.json",
        )
        tables.write_json(audit_report.to_json(data.findings), job.workdir / "audit.json")


def _same_everywhere(experiment: config.Experiment, data: Federation) -> dict[str, Any]:
    """List the values that must be the same in every process; paths of files may differ."""
    fields = flat({"config": config.to_dict(experiment)})
    here = {name: value for name, value in fields.items() if not name.endswith(".options.path")}
    images = {"data": data.digest, "test images": data.test_digest}
    return {**here, **images, "code": code_version(), "jax": jax.__version__}
