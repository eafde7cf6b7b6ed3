"""trains a federation, or goes on where it stopped.

Give the same command again to go on after an interruption; a run that is complete is left alone.
"""

import contextlib
import time
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
    updates,
)
from fedjax_med.checkpoint import Checkpoints
from fedjax_med.commands import evaluate
from fedjax_med.communication import Traffic
from fedjax_med.errors import UserError
from fedjax_med.evaluate import Models, Validation, pool, validate
from fedjax_med.federated import FedState
from fedjax_med.feed import Feed, Turn
from fedjax_med.files import writing
from fedjax_med.flags import define_config, define_data, define_processes
from fedjax_med.identity import code_version, flat, identity
from fedjax_med.interrupt import stop_requests
from fedjax_med.profiling import Profile, parse_rounds
from fedjax_med.progress import Progress, check_finite, record
from fedjax_med.resume import start_state
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
    define_processes(flags)


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


class _Run(NamedTuple):
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


def _rounds(
    run: _Run, state: FedState, progress: Progress | None, stop: list[int]
) -> tuple[int, int]:
    """Run the rounds that are left, or until `stop` holds a signal.

    All processes run the same rounds; the first one, which has `progress`, validates and writes.

    Returns:
        The rounds that are done, and the signal or 0.
    """
    experiment, assembly, checkpoints, profile = run[0], run.assembly, run.checkpoints, run.profile
    state = distributed.place(state, assembly.placement.state)
    validation, last = pool(run.data.validation), _last(experiment, run.promise)
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
                # The best is chosen among the scheduled ones, as in a run never stopped.
                whole, scores = distributed.gather(state), scores if due else {}
                tag = run.tag | private.tag(run.promise, number)
                distributed.on_main(checkpoints.save, whole, tag, scores)
        profile.end(number)
        done = number
        if signal:
            break
    distributed.on_main(checkpoints.wait)
    return done, signal


def _last(experiment: config.Experiment, promise: private.Promise | None) -> int:
    return promise.rounds if promise else experiment.rounds


class Order(NamedTuple):
    """What is to be trained, on what, and where it is kept."""

    experiment: config.Experiment  # completed
    data_dir: str
    cache_dir: str
    workdir: Path
    evaluate: str = ""  # the checkpoint to evaluate when training is complete: best, last or none
    profile_rounds: str = ""  # such as 3-5


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
) -> FedState:
    """Where the run goes on; the workdir then says what the run is."""
    state = start_state(order.workdir, checkpoints, template, tag)
    checkpoints.remove_after(int(state.round))
    _write_experiment(order, data, tag)
    return state


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
    promise = private.promise(experiment, data.train.sizes)
    last = _last(experiment, promise)
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
        state = distributed.from_main(begun or template)
        start, traffic = int(state.round), None
        if experiment.setting == "federated":
            traffic = assemble.traffic(assembly, data.train.shapes())
        announce.say_start(experiment, assembly, data, start, traffic, promise)
        profile.check(start + 1, last)
        feed = assemble.feed(assembly, experiment, data.train)
        run = _Run(
            experiment, workdir, assembly, data, tag, promise, checkpoints, profile, feed, traffic
        )
        opened.enter_context(contextlib.closing(feed))
        progress = distributed.on_main(Progress, workdir, start, last)
        if progress is not None:
            opened.enter_context(contextlib.closing(progress))
        with stop_requests() as stop:
            done, signal = _rounds(run, state, progress, stop)
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
