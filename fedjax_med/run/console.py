"""What a run says at its start and at its end."""

from pathlib import Path

import jax

from fedjax_med.core.communication import Traffic
from fedjax_med.data.images.lazy import DiskImages
from fedjax_med.execution import multihost
from fedjax_med.experiment import build, config, load_data, privacy_plan
from fedjax_med.files import writing
from fedjax_med.privacy import accounting
from fedjax_med.run.metrics_writer import Progress, size_in_words
from fedjax_med.run.profiling import peak_memory


def say_end(
    workdir: Path,
    data: load_data.Federation,
    progress: Progress,
    done: int,
    signal: int,
    rounds: int,
) -> None:
    """Draw the learning curves, and say what was done.

    Args:
        workdir: of the run.
        data: its data.
        progress: its records.
        done: rounds.
        signal: that stopped it, or 0.
        rounds: that were asked for.
    """
    if progress.records:
        from fedjax_med.evaluation import plots  # here: it loads matplotlib

        with writing(workdir):
            plots.learning_curves_png(progress.records, workdir / "learning_curves.png")
    if signal and done < rounds:
        print(f"Stopped after round {done}; the same command goes on from there.")
        return
    minutes = sum(one["seconds"] for one in progress.records) / 60
    spent = f"{_rounds_in_words(done)} in {minutes:.1f} minutes"
    print(f"Trained {spent}; everything is in {workdir}.")
    up, down = (
        sum(one.get(name, 0) for one in progress.records) for name in ("bytes_up", "bytes_down")
    )
    if up:
        print(f"Sent by the clients: {size_in_words(up)}; to them: {size_in_words(down)}.")
    if isinstance(data.train.split.image, DiskImages):
        print(f"Images stayed on disk; memory: {peak_memory()}.")


def _rounds_in_words(number: int) -> str:
    return f"{number} round{'s' * (number != 1)}"


def say_start(
    experiment: config.Experiment,
    assembly: build.Assembly,
    data: load_data.Federation,
    start: int,
    traffic: Traffic | None,
    promise: privacy_plan.Promise | None,
) -> None:
    """Say who trains, how, from where, and what crosses the network.

    Args:
        experiment: completed.
        assembly: of it.
        data: its data.
        start: the rounds that are done.
        traffic: of one client in one round; None where nothing crosses a network.
        promise: of privacy; None where none is.
    """
    each, choice = data.train.sizes, assembly.map_clients
    sizes, total = " + ".join(map(str, each)), ""
    if len(each) > 20:
        sizes, total = f"{each.min()} to {each.max()}", f" ({each.sum():,} in all)"
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    if multihost.active():
        devices += f" of {jax.process_count()} processes"
    who = "client trains" if len(each) == 1 else "clients train"
    if experiment.setting != "federated":
        who += f" ({experiment.setting})"
    print(
        f"{len(each)} {who} on {sizes} images of {experiment.image_size} px"
        f"{total}; clients run {choice.name} ({choice.why}) on {devices}."
    )
    if traffic is not None:
        down, up = size_in_words(traffic.down), size_in_words(traffic.up)
        print(f"In a round each client receives {down} and sends {up}.")
    if promise is not None:
        _say_privacy(experiment, promise)
    if experiment.privacy.unit != "none" and promise is None:
        print("Nothing is promised of privacy: in this setting nothing is sent.")
    if start >= experiment.rounds:
        print(f"All is done already: {_rounds_in_words(start)}.")
    elif start:
        print(f"Going on after round {start}.")


def _say_privacy(experiment: config.Experiment, promise: privacy_plan.Promise) -> None:
    """What all rounds cost, against whom, and which is the last one that the budget allows."""
    account = promise.account
    print(
        f"Differential privacy for one {promise.unit}: noise multiplier "
        f"{account.noise_multiplier:.4g}, epsilon {account.epsilon(promise.rounds):.3g} after "
        f"{_rounds_in_words(promise.rounds)} at delta {account.delta:g} (docs/privacy.md says of "
        "what)."
    )
    if promise.unit == "client":
        _say_sampling(experiment, promise)
    if account.delta * promise.units >= 1:
        print(
            f"Delta {account.delta:g} is not below 1 / {promise.units} {promise.unit}s: what gives "
            "one of them away whole would be allowed. Lower --config.privacy.delta."
        )
    if promise.ended:
        print(
            f"Round {promise.rounds} is the last one: another would exceed the budget of epsilon "
            f"{promise.budget:g}."
        )


def _say_sampling(experiment: config.Experiment, promise: privacy_plan.Promise) -> None:
    """Whether epsilon counts on it that nobody knows which clients take part."""
    account = promise.account
    if account.uses[0].rate < 1:
        known = account._replace(uses=(accounting.Use(),)).epsilon(promise.rounds)
        print(
            "That holds against those who do not know who took part in which round (metrics.jsonl "
            f"and the traffic tell); against others epsilon is {known:.3g}."
        )
    elif experiment.turnout.rate < 1 or experiment.cohort.name != "everyone":
        why = "they remember whether they took part"
        if experiment.turnout.rate == 1:
            why = "a cohort of a fixed size is no independent choice"
        print(f"That not all clients take part makes epsilon no smaller: {why}.")
