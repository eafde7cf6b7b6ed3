"""trains a federation, or goes on where it stopped.

Give the same command again to go on after an interruption; a run that is complete is left alone.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags as absl_flags

from fedjax_med import (
    announce,
    assemble,
    audit_report,
    clients,
    config,
    distributed,
    private,
    ranges,
    report,
    stack,
)
from fedjax_med.checkpoint import Checkpoints
from fedjax_med.commands import evaluate
from fedjax_med.federated import FedState
from fedjax_med.files import writing
from fedjax_med.flags import define_begin_anew, define_config, define_data, define_processes
from fedjax_med.identity import code_version, flat, identity
from fedjax_med.interrupt import stop_requests
from fedjax_med.loop import Run, last_round, run_rounds
from fedjax_med.profiling import Profile, parse_rounds
from fedjax_med.progress import Progress
from fedjax_med.resume import Start, find_start
from fedjax_med.workdir import exclusive


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


def _write_experiment(order: Order, data: clients.Federation, tag: dict[str, Any]) -> None:
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
                **{name: tag[name] for name in ("privacy",) if name in tag},
            },
            order.workdir / "experiment.json",
        )
        report.write_json(audit_report.to_json(data.findings), order.workdir / "audit.json")


def _begin(
    order: Order,
    data: clients.Federation,
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
    promise = private.promise(experiment, data.train.sizes)
    last = last_round(experiment, promise)
    rounds_to_profile = parse_rounds(order.profile_rounds) if distributed.is_main() else range(0)
    with contextlib.ExitStack() as opened:
        checkpoints = opened.enter_context(
            contextlib.closing(Checkpoints(workdir, experiment.checkpoint))
        )
        profile = opened.enter_context(contextlib.closing(Profile(workdir, rounds_to_profile)))
        before = distributed.text_from_main(checkpoints.strategy)
        last_identity = checkpoints.last_identity
        means = private.means(experiment, promise, workdir, last_identity, data.digest)
        assembly = assemble.assemble(experiment, len(data.class_names), counts, before, means)
        assembly = assemble.fitted(assembly, experiment, data.train)
        template = assembly.init(data.train.shapes())
        tag = identity(config.to_dict(experiment), data.digest, assembly.map_clients.name)
        tag |= private.tag(promise, 0, means)
        begun = distributed.on_main(_begin, order, data, checkpoints, template, tag)
        state = distributed.from_main(begun.state if begun else template)
        start, traffic = int(state.round), None
        if experiment.setting == "federated":
            traffic = assemble.traffic(assembly, data.train.shapes())
        announce.say_start(experiment, assembly, data, start, traffic, promise)
        profile.check(start + 1, last)
        feed = assemble.feed(assembly, experiment, data.train)
        run = Run(
            experiment, workdir, assembly, data, tag, promise, checkpoints, profile, feed, traffic
        )
        opened.enter_context(contextlib.closing(feed))
        progress = distributed.on_main(Progress, workdir, start, last, begun and begun.records)
        if progress is not None:
            opened.enter_context(contextlib.closing(progress))
        with stop_requests() as stop:
            done, signal = run_rounds(run, state, progress, stop)
    distributed.on_main(announce.say_end, workdir, data, progress, done, signal, last)
    if order.evaluate and done == last:
        distributed.on_main(evaluate.evaluate_workdir, workdir, data, order.evaluate)
    # In the last round, too: of several runs the next must not begin.
    return 128 + signal if signal else 0


def _same_everywhere(experiment: config.Experiment, data: clients.Federation) -> dict[str, Any]:
    """What has to be the same in every process; where a file lies may differ."""
    fields = flat({"config": config.to_dict(experiment)})
    here = {name: value for name, value in fields.items() if not name.endswith(".options.path")}
    images = {"data": data.digest, "test images": data.test_digest}
    return {**here, **images, "code": code_version(), "jax": jax.__version__}
