"""trains a federation, or goes on where it stopped.

Give the same command again to go on after an interruption; a run that is complete is left alone.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags as absl_flags

from fedjax_med import assemble, audit_report, clients, config, distributed, ranges, report, stack
from fedjax_med.checkpoint import Checkpoints
from fedjax_med.commands import evaluate
from fedjax_med.disk_images import DiskImages
from fedjax_med.errors import UserError
from fedjax_med.evaluate import Validation, pool, validate
from fedjax_med.federated import FedState
from fedjax_med.feed import Feed, Turn
from fedjax_med.flags import define_config, define_data, define_processes
from fedjax_med.identity import code_version, flat, identity
from fedjax_med.interrupt import stop_requests
from fedjax_med.profiling import Profile, parse_rounds, peak_memory
from fedjax_med.progress import Progress, check_finite, record
from fedjax_med.resume import start_state
from fedjax_med.workdir import exclusive, writing


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """The flags of this command."""
    define_config(flags, arguments)
    define_data(flags)
    absl_flags.DEFINE_string(
        "workdir", "", "where the run lives (default: runs/NAME OF THE CONFIG)", flag_values=flags
    )
    absl_flags.DEFINE_boolean(
        "evaluate", False, "evaluate on the test set when training is complete", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "profile_rounds",
        "",
        "trace these rounds, such as 3-5, into WORKDIR/profile",
        flag_values=flags,
    )
    define_processes(flags)


def _validate(
    assembly: assemble.Assembly, state: FedState, validation: Validation, number: int
) -> dict[str, Any]:
    try:
        return validate(assembly.model, distributed.local(state.server.params), validation)
    except UserError as error:
        raise UserError(f"round {number}: {error}") from error


class _Run(NamedTuple):
    """What the rounds need that does not change."""

    experiment: config.Experiment
    assembly: assemble.Assembly
    data: clients.Federation
    checkpoints: Checkpoints
    profile: Profile
    feed: Feed


def _compile_together(
    assembly: assemble.Assembly, state: FedState, turn: Turn, compiled: set[Any]
) -> None:
    """All processes compile before any of them runs: devices wait for each other for 30 s only."""
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(turn.data))
    with distributed.together():
        if shapes not in compiled:
            assembly.lower(state, turn.data, turn.places).compile()
    compiled.add(shapes)


def _rounds(
    run: _Run, state: FedState, progress: Progress | None, stop: list[int]
) -> tuple[int, int]:
    """Run the rounds that are left, or until `stop` holds a signal.

    All processes run the same rounds; the first one, which has `progress`, validates and writes.

    Returns:
        The rounds that are done, and the signal or 0.
    """
    experiment, assembly, data, checkpoints, profile, feed = run
    state = distributed.place(state, assembly.placement.state)
    validation = pool(data.validation)
    tag = identity(config.to_dict(experiment), data.digest, assembly.map_clients.name)
    done, signal, compiled = int(state.round), 0, set[Any]()
    for number in range(done + 1, experiment.rounds + 1):
        began = time.monotonic()
        profile.begin(number)
        with profile.part("data"), distributed.together():
            turn = feed.get(number)
        if distributed.active():
            with profile.part("compilation"):
                _compile_together(assembly, state, turn, compiled)
        with profile.part("training"):
            state, result = assembly.run_round(state, turn.data, turn.places)
            client_metrics: dict[str, np.ndarray[Any, Any]] = jax.device_get(result)
        due = number % experiment.checkpoint.every == 0 or number == experiment.rounds
        scores: dict[str, Any] = {}
        with profile.part("validation"), distributed.together():
            check_finite(client_metrics, state, number, checkpoints.last_good)
            # The best checkpoint is chosen by its validation.
            if progress and (due or number % experiment.validate_every == 0):
                scores = _validate(assembly, state, validation, number)
            if progress:
                seconds = time.monotonic() - began
                progress.add(record(number, client_metrics, scores, seconds))
        signal = distributed.first_signal(stop)
        with profile.part("checkpoint"):
            if due or signal:
                # The best is chosen among the scheduled ones, as in a run never stopped.
                whole, scores = distributed.gather(state), scores if due else {}
                distributed.on_main(checkpoints.save, whole, tag, scores)
        profile.end(number)
        done = number
        if signal:
            break
    distributed.on_main(checkpoints.wait)
    return done, signal


class Order(NamedTuple):
    """What is to be trained, on what, and where it is kept."""

    experiment: config.Experiment  # completed
    data_dir: str
    cache_dir: str
    workdir: Path
    evaluate: str = ""  # the checkpoint to evaluate when training is complete: best, last or none
    profile_rounds: str = ""  # such as 3-5


def _write_experiment(order: Order, data: clients.Federation) -> None:
    with writing(order.workdir):
        report.write_json(
            {
                "experiment": config.to_dict(order.experiment),
                "data_dir": str(Path(order.data_dir).expanduser().absolute())
                if order.data_dir
                else "",
                "cache_dir": str(Path(order.cache_dir).expanduser().absolute()),
                "code": code_version(),
                "data": data.digest,
                "test": data.test_digest,
                "class_names": list(data.class_names),
            },
            order.workdir / "experiment.json",
        )
        report.write_json(audit_report.to_json(data.findings), order.workdir / "audit.json")


def run(flags: absl_flags.FlagValues) -> int:
    """Read, audit, partition, stack, then round after round; returns the exit code."""
    experiment: config.Experiment = flags.config
    workdir = Path(flags.workdir or f"runs/{experiment.name or 'experiment'}").expanduser()
    which = experiment.checkpoint.tested if flags.evaluate else ""
    return train(
        Order(experiment, flags.data_dir, flags.cache_dir, workdir, which, flags.profile_rounds)
    )


def train(order: Order) -> int:
    """Train, or go on where it stopped; returns the exit code (128 + the signal that stopped it).

    Raises:
        UserError: The experiment, the data or the workdir is not usable.
    """
    ranges.check(order.experiment)
    parse_rounds(order.profile_rounds)
    with contextlib.ExitStack() as held:
        distributed.on_main(held.enter_context, exclusive(order.workdir))
        return _train(order)


def train_all(orders: Sequence[Order]) -> int:
    """Train one after the other; what is complete is only evaluated. Returns the exit code."""
    for number, order in enumerate(orders, 1):
        print(f"\n[{number} of {len(orders)}] {order.workdir}", flush=True)
        if code := train(order):
            return code
    return 0


def _train(order: Order) -> int:
    experiment, workdir = order.experiment, order.workdir
    data = distributed.main_first(clients.load, experiment, order.data_dir, order.cache_dir)
    distributed.check_same(_same_everywhere(experiment, data))
    print(data.summary)
    if order.evaluate:
        evaluate.check_test(data)
    counts = stack.class_counts(data.train, len(data.class_names)).sum(axis=0)
    rounds_to_profile = parse_rounds(order.profile_rounds) if distributed.is_main() else range(0)
    with contextlib.ExitStack() as opened:
        checkpoints = opened.enter_context(
            contextlib.closing(Checkpoints(workdir, experiment.checkpoint))
        )
        profile = opened.enter_context(contextlib.closing(Profile(workdir, rounds_to_profile)))
        before = distributed.text_from_main(checkpoints.strategy)
        assembly = assemble.assemble(experiment, len(data.class_names), counts, before)
        assembly = assemble.fitted(assembly, experiment, data.train)
        template = assembly.init(data.train.shapes())

        def begin() -> FedState:
            tag = identity(config.to_dict(experiment), data.digest, assembly.map_clients.name)
            state = start_state(workdir, checkpoints, template, tag)
            checkpoints.remove_after(int(state.round))
            _write_experiment(order, data)
            return state

        state = distributed.from_main(distributed.on_main(begin) or template)
        start = int(state.round)
        _say_start(experiment, assembly, data, start)
        profile.check(start + 1, experiment.rounds)
        feed = assemble.feed(assembly, experiment, data.train)
        run = _Run(experiment, assembly, data, checkpoints, profile, feed)
        opened.enter_context(contextlib.closing(feed))
        progress = distributed.on_main(Progress, workdir, start, experiment.rounds)
        if progress is not None:
            opened.enter_context(contextlib.closing(progress))
        with stop_requests() as stop:
            done, signal = _rounds(run, state, progress, stop)
    distributed.on_main(_say_end, workdir, run, progress, done, signal)
    if order.evaluate and done == experiment.rounds:
        distributed.on_main(evaluate.evaluate_workdir, workdir, data, order.evaluate)
    # In the last round, too: of several runs the next must not begin.
    return 128 + signal if signal else 0


def _same_everywhere(experiment: config.Experiment, data: clients.Federation) -> dict[str, Any]:
    """What has to be the same in every process; where a file lies may differ."""
    fields = flat({"config": config.to_dict(experiment)})
    here = {name: value for name, value in fields.items() if not name.endswith(".options.path")}
    images = {"data": data.digest, "test images": data.test_digest}
    return {**here, **images, "code": code_version(), "jax": jax.__version__}


def _say_end(workdir: Path, run: _Run, progress: Progress, done: int, signal: int) -> None:
    if progress.records:
        from fedjax_med import pictures  # here: the first round need not wait for matplotlib

        with writing(workdir):
            pictures.learning_curves_png(progress.records, workdir / "learning_curves.png")
    if signal and done < run.experiment.rounds:
        print(f"Stopped after round {done}; the same command goes on from there.")
        return
    minutes = sum(one["seconds"] for one in progress.records) / 60
    spent = f"{_rounds_in_words(done)} in {minutes:.1f} minutes"
    print(f"Trained {spent}; everything is in {workdir}.")
    if isinstance(run.data.train.split.image, DiskImages):
        print(f"Images stayed on disk; memory: {peak_memory()}.")


def _rounds_in_words(number: int) -> str:
    return f"{number} round{'s' * (number != 1)}"


def _say_start(
    experiment: config.Experiment,
    assembly: assemble.Assembly,
    data: clients.Federation,
    start: int,
) -> None:
    each, choice = data.train.sizes, assembly.map_clients
    sizes, total = " + ".join(map(str, each)), ""
    if len(each) > 20:
        sizes, total = f"{each.min()} to {each.max()}", f" ({each.sum():,} in all)"
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    if distributed.active():
        devices += f" of {jax.process_count()} processes"
    who = "client trains" if len(each) == 1 else "clients train"
    if experiment.setting != "federated":
        who += f" ({experiment.setting})"
    print(
        f"{len(each)} {who} on {sizes} images of {experiment.image_size} px"
        f"{total}; clients run {choice.name} ({choice.why}) on {devices}."
    )
    if start >= experiment.rounds:
        print(f"All is done already: {_rounds_in_words(start)}.")
    elif start:
        print(f"Going on after round {start}.")
