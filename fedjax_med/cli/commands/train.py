"""trains a federation, or goes on where it stopped.

Give the same command again to go on after an interruption; a run that is complete is left alone.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags as absl_flags

from fedjax_med.cli.commands import evaluate
from fedjax_med.cli.flags import define_begin_anew, define_config, define_data, define_processes
from fedjax_med.core.round import FedState
from fedjax_med.data import client_data
from fedjax_med.data.audit import report as audit_report
from fedjax_med.evaluation import tables
from fedjax_med.execution import multihost
from fedjax_med.experiment import build, config, load_data, privacy_plan, validation
from fedjax_med.files import writing
from fedjax_med.run import console, noise_key
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.loop import Run, last_round, run_rounds
from fedjax_med.run.metrics_writer import Progress
from fedjax_med.run.profiling import Profile, parse_rounds
from fedjax_med.run.provenance import code_version, flat, identity
from fedjax_med.run.resume import Start, find_start
from fedjax_med.run.signals import stop_requests
from fedjax_med.run.workdir import exclusive


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
    define_begin_anew(flags)
    define_processes(flags)


class Order(NamedTuple):
    """What is to be trained, on what, and where it is kept."""

    experiment: config.Experiment  # completed
    data_dir: str
    cache_dir: str
    workdir: Path
    evaluate: str = ""  # the checkpoint to evaluate when training is complete: best, last or none
    profile_rounds: str = ""  # such as 3-5
    begin_anew: bool = False  # if the workdir has checkpoints of which none can be read


def _write_experiment(order: Order, data: load_data.Federation, tag: dict[str, Any]) -> None:
    with writing(order.workdir):
        tables.write_json(
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
                **{name: tag[name] for name in ("privacy",) if name in tag},
            },
            order.workdir / "experiment.json",
        )
        tables.write_json(audit_report.to_json(data.findings), order.workdir / "audit.json")


def _begin(
    order: Order,
    data: load_data.Federation,
    checkpoints: Checkpoints,
    template: FedState,
    tag: dict[str, Any],
) -> Start:
    """Where the run goes on; the workdir then says what the run is."""
    start = find_start(order.workdir, checkpoints, template, tag, order.begin_anew)
    checkpoints.remove_after(int(start.state.round))
    _write_experiment(order, data, tag)
    return start


def run(flags: absl_flags.FlagValues) -> int:
    """Read, audit, partition, stack, then round after round; returns the exit code."""
    experiment: config.Experiment = flags.config
    workdir = Path(flags.workdir or f"runs/{experiment.name or 'experiment'}").expanduser()
    which = experiment.checkpoint.tested if flags.evaluate else ""
    places = flags.data_dir, flags.cache_dir, workdir
    return train(Order(experiment, *places, which, flags.profile_rounds, flags.begin_anew))


def train(order: Order) -> int:
    """Train, or go on where it stopped; returns the exit code (128 + the signal that stopped it).

    Raises:
        UserError: The experiment, the data or the workdir is not usable.
    """
    validation.check(order.experiment)
    parse_rounds(order.profile_rounds)
    with contextlib.ExitStack() as held:
        multihost.on_main(held.enter_context, exclusive(order.workdir))
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
    data = multihost.main_first(load_data.load, experiment, order.data_dir, order.cache_dir)
    multihost.check_same(_same_everywhere(experiment, data))
    print(data.summary)
    if order.evaluate:
        evaluate.check_test(data)
    counts = client_data.class_counts(data.train, len(data.class_names)).sum(axis=0)
    promise = privacy_plan.promise(experiment, data.train.sizes)
    last = last_round(experiment, promise)
    rounds_to_profile = parse_rounds(order.profile_rounds) if multihost.is_main() else range(0)
    with contextlib.ExitStack() as opened:
        checkpoints = opened.enter_context(
            contextlib.closing(Checkpoints(workdir, experiment.checkpoint))
        )
        profile = opened.enter_context(contextlib.closing(Profile(workdir, rounds_to_profile)))
        before = multihost.text_from_main(checkpoints.strategy)
        last_identity = checkpoints.last_identity
        means = noise_key.means(experiment, promise, workdir, last_identity, data.digest)
        assembly = build.assemble(experiment, len(data.class_names), counts, before, means)
        assembly = build.fitted(assembly, experiment, data.train)
        template = assembly.init(data.train.shapes())
        tag = identity(config.to_dict(experiment), data.digest, assembly.map_clients.name)
        tag |= privacy_plan.tag(promise, 0, means)
        begun = multihost.on_main(_begin, order, data, checkpoints, template, tag)
        state = multihost.from_main(begun.state if begun else template)
        start, traffic = int(state.round), None
        if experiment.setting == "federated":
            traffic = build.traffic(assembly, data.train.shapes())
        console.say_start(experiment, assembly, data, start, traffic, promise)
        profile.check(start + 1, last)
        feed = build.feed(assembly, experiment, data.train)
        run = Run(
            experiment, workdir, assembly, data, tag, promise, checkpoints, profile, feed, traffic
        )
        opened.enter_context(contextlib.closing(feed))
        progress = multihost.on_main(Progress, workdir, start, last, begun and begun.records)
        if progress is not None:
            opened.enter_context(contextlib.closing(progress))
        with stop_requests() as stop:
            done, signal = run_rounds(run, state, progress, stop)
    multihost.on_main(console.say_end, workdir, data, progress, done, signal, last)
    if order.evaluate and done == last:
        multihost.on_main(evaluate.evaluate_workdir, workdir, data, order.evaluate)
    # In the last round, too: of several runs the next must not begin.
    return 128 + signal if signal else 0


def _same_everywhere(experiment: config.Experiment, data: load_data.Federation) -> dict[str, Any]:
    """What has to be the same in every process; where a file lies may differ."""
    fields = flat({"config": config.to_dict(experiment)})
    here = {name: value for name, value in fields.items() if not name.endswith(".options.path")}
    images = {"data": data.digest, "test images": data.test_digest}
    return {**here, **images, "code": code_version(), "jax": jax.__version__}
