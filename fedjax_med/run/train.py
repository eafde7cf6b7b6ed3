"""Trains one experiment in its workdir, or resumes it where it stopped."""

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.data.audit import report as audit_report
from fedjax_med.data.federation import Federation
from fedjax_med.errors import UserError, expand
from fedjax_med.evaluation import operating, tables
from fedjax_med.execution import compilation, multihost
from fedjax_med.experiment import config, load_data, resolve
from fedjax_med.experiment.plan import (
    Plan,
    check_before_data,
    check_weights,
    compile_plan,
    first_state,
    make_plan,
    recorded_weights,
    with_statistics,
)
from fedjax_med.experiment.resolve import Resolved
from fedjax_med.files import writing
from fedjax_med.models.pretrained import exported
from fedjax_med.privacy.plan import to_json
from fedjax_med.run import console, noise_key
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.evaluate import check_test, evaluate_checkpoint
from fedjax_med.run.loop import RunContext, run_rounds
from fedjax_med.run.metrics_writer import MetricsWriter
from fedjax_med.run.output import lasting
from fedjax_med.run.profiling import Profile, parse_rounds
from fedjax_med.run.provenance import code_version, flat, identity, reported_digest
from fedjax_med.run.resume import Start, find_start, rounds_done
from fedjax_med.run.signals import stop_requests
from fedjax_med.run.tested_on import check_test_set
from fedjax_med.run.workdir import REPORTED, check_writable, exclusive, private, read_workdir


class TrainJob(NamedTuple):
    """An experiment to train, its data and its workdir.

    experiment: completed (`fedjax_med.experiment.resolve.complete`).
    data_dir: the folder of the images, or "".
    cache_dir: where prepared data is kept.
    workdir: of the run.
    evaluate: the checkpoint to evaluate when training is complete: best, last or none ("").
    profile_rounds: the rounds to profile, such as 3-5, or "".
    begin_anew: whether to begin anew if none of the workdir's checkpoints can be read.
    capacity: the number of examples for which every client has room on the device, at least.
        If no client has more, runs of different partitions have equal shapes and share compiled
        programs. Padding changes no bit of a model, only the last digit of the reported training
        loss, so this is not part of the experiment.
    """

    experiment: config.Experiment
    data_dir: str
    cache_dir: str
    workdir: Path
    evaluate: str = ""
    profile_rounds: str = ""
    begin_anew: bool = False
    capacity: int = 0


def train(job: TrainJob) -> int:
    """Train, or resume where training stopped.

    Returns:
        The exit code: 0, or 128 + the signal that stopped it.

    Raises:
        UserError: The experiment, the data or the workdir is not usable.
    """
    job = job._replace(experiment=load_data.count_clients(job.experiment, job.data_dir))
    load_data.check_local_client(job.experiment, job.experiment.num_clients)
    resolved = resolve.settle(job.experiment)
    check_before_data(resolved)
    if not rounds_done(job.workdir):  # else the checkpoint has the weights
        check_weights(resolved)
    parse_rounds(job.profile_rounds)
    with contextlib.ExitStack() as held:
        multihost.on_main(held.enter_context, exclusive(job.workdir))
        return _train(job, resolved)


def train_all(jobs: Sequence[TrainJob]) -> int:
    """Train the jobs in order; complete ones are only evaluated. Return the exit code.

    Raises:
        UserError: As in `train`; a value out of its range, and a workdir that cannot be written,
            are told before the first.
    """
    for job in jobs:
        resolve.check_ranges(job.experiment)
        check_writable(job.workdir)
    for number, job in enumerate(jobs, 1):
        print(f"\n[{number} of {len(jobs)}] {job.workdir}", flush=True)
        if code := train(job):
            return code
    return 0


def _train(job: TrainJob, resolved: Resolved) -> int:
    data = multihost.main_first(load_data.load, resolved.asked, job.data_dir, job.cache_dir)
    data = data._replace(train=data.train._replace(min_capacity=job.capacity))
    multihost.check_same(_same_everywhere(resolved.asked, data))
    print(data.summary)
    operating.classes(job.experiment.operating, data.class_names)  # told before training
    exported.check_classes(resolved.trained.pretrained, data.class_names)
    if job.evaluate:
        check_test(data)
        multihost.on_main(check_test_set, job.workdir, data)
    with contextlib.ExitStack() as closed:
        with contextlib.closing(Checkpoints(job.workdir, job.experiment.checkpoint)) as checkpoints:
            before = multihost.text_from_main(checkpoints.client_map)
            plan = make_plan(resolved, data.class_counts, data.train.sizes, before=before)
            if _has_secrets(plan):
                multihost.on_main(closed.enter_context, private(job.workdir))
            done, signal = _run(job, plan, data, checkpoints)
        if job.evaluate and done == plan.last_round:
            multihost.on_main(evaluate_checkpoint, job.workdir, plan, data, job.evaluate)
    # Also after the last round: a stopped `train_all` must not start its next run.
    return 128 + signal if signal else 0


def _run(job: TrainJob, plan: Plan, data: Federation, checkpoints: Checkpoints) -> tuple[int, int]:
    """Run the remaining rounds; return the number of rounds done, and the signal or 0."""
    noise = noise_key.noise_source(
        plan.experiment,
        plan.privacy,
        job.workdir,
        checkpoints.last_identity,
        data.digest,
        plan.model.networks,
    )
    key, start_state = (
        plan.key if noise is None else noise.key,
        functools.partial(first_state, plan, data.train.shapes()),
    )
    compiled = compile_plan(plan)
    if compiled.smaller is not None:
        console.say_compiling()
    compiled = compilation.fit_to_memory(compiled, start_state, data.train, key)
    template = start_state()
    tag = identity(config.to_dict(plan.experiment), data.digest, compiled.backend.client_map)
    tag |= to_json(plan.privacy, 0, noise)
    if noise is not None:
        tag[noise_key.CHECK] = noise_key.check(noise.secret)
    begun = multihost.on_main(_begin, job, data, checkpoints, template, tag)
    state = multihost.from_main(begun.state if begun else template)
    start, traffic = int(state.round), None
    if not start:  # a checkpoint holds what the sums over all clients' examples gave
        state = first_state(with_statistics(plan, data.train), data.train.shapes())
    if plan.experiment.setting == "federated":
        traffic = compilation.traffic(plan.process, template, data.train.shapes())
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
            job.workdir, plan, compiled, key, data, tag, checkpoints, profile, writer, traffic
        )
        with stop_requests() as stop, lasting(stop):
            done, signal = run_rounds(run, state, stop)
    multihost.on_main(console.say_end, job.workdir, data, writer, done, signal, plan.last_round)
    return done, signal


def _has_secrets(plan: Plan) -> bool:
    """Return whether the workdir gets a secret, or what only single hospitals have made."""
    experiment, algorithm = plan.experiment, plan.process.algorithm
    if experiment.setting == "centralized":
        own = False  # its one client is nobody's own
    else:
        own = algorithm.personal_params is not None or not algorithm.traits.stateless_clients
    noise = plan.privacy is not None and experiment.privacy.noise_from == "secret"
    unsent = any(transform.remembers for transform in plan.process.transforms)
    kept = unsent or plan.process.keep_updates  # of each client's updates
    return own or noise or kept or experiment.setting == "local"


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
                "data_dir": str(expand(job.data_dir).absolute()) if job.data_dir else "",
                "cache_dir": str(expand(job.cache_dir).absolute()),
                "code": code_version(),
                "data": data.digest,
                "test": data.test_digest,
                "test_set": data.test_set,
                "class_names": list(data.class_names),
                "train_sizes": data.train.sizes.tolist(),
                REPORTED: reported_digest(job.experiment),
                **_table_of(data),
                **({"groups": data.findings.groups.sha256} if data.findings.groups else {}),
                **{name: tag[name] for name in ("privacy",) if name in tag},
                **_weights(job),
            },
            job.workdir / "experiment.json",
        )
        tables.write_json(audit_report.to_json(data.findings), job.workdir / "audit.json")


def _weights(job: TrainJob) -> dict[str, Any]:
    """Return what is recorded of weights from the hub, here or where the run began."""
    if found := recorded_weights(job.experiment):
        return {"weights": found if len(found) > 1 else found[0]}
    with contextlib.suppress(UserError):  # it is about to be written
        saved = read_workdir(job.workdir)
        return {name: saved[name] for name in ("weights",) if name in saved}
    return {}


def _table_of(data: Federation) -> dict[str, Any]:
    """Describe the table that has corrected the labels, if one has."""
    changes = data.findings.corrections
    if changes is None or not changes.applied:
        return {}
    return {"corrections": {"table": changes.table, "sha256": changes.sha256}}


def _same_everywhere(experiment: config.Experiment, data: Federation) -> dict[str, Any]:
    """List the values that must be the same in every process; paths of files may differ."""
    fields = flat({"config": config.to_dict(experiment)})
    # The content of these files is in the data's digest.
    files = (".options.path", ".groups.path", "config.corrections", "config.metadata.path")
    here = {name: value for name, value in fields.items() if not name.endswith(files)}
    images = {"data": data.digest, "test images": data.test_digest}
    return {**here, **images, "code": code_version(), "jax": jax.__version__}
