"""Prints the messages at the start and at the end of a run."""

from pathlib import Path

import jax

from fedjax_med.core.communication import Traffic
from fedjax_med.data.federation import Federation
from fedjax_med.data.images.lazy import DiskImages
from fedjax_med.execution import multihost
from fedjax_med.execution.backend import Backend
from fedjax_med.experiment.config import Experiment
from fedjax_med.experiment.plan import Plan
from fedjax_med.files import writing
from fedjax_med.privacy import accounting
from fedjax_med.privacy.plan import PrivacyPlan
from fedjax_med.run.metrics_writer import MetricsWriter, size_in_words
from fedjax_med.run.profiling import peak_memory


def say_end(
    workdir: Path,
    data: Federation,
    progress: MetricsWriter,
    done: int,
    signal: int,
    rounds: int,
) -> None:
    """Draw the learning curves, and print a summary of the run.

    Args:
        workdir: of the run.
        data: the run's data.
        progress: holds the run's records.
        done: the number of rounds done.
        signal: the signal that stopped the run, or 0.
        rounds: the number of the last round.
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
    plan: Plan, backend: Backend, data: Federation, start: int, traffic: Traffic | None
) -> None:
    """Print the clients, the client map, the traffic, the privacy and the rounds already done.

    Args:
        plan: of the run.
        backend: the client map that fits the memory.
        data: the clients' data.
        start: the number of rounds done.
        traffic: of one client in one round; None where nothing crosses a network.
    """
    experiment = plan.experiment
    print(_who_trains(experiment, data), end="; ")
    devices = f"{jax.device_count()} {jax.devices()[0].platform} device(s)"
    if multihost.active():
        devices += f" of {jax.process_count()} processes"
    print(f"clients run {backend.name} ({backend.why}) on {devices}.")
    if traffic is not None:
        down, up = size_in_words(traffic.down), size_in_words(traffic.up)
        print(f"In a round each client receives {down} and sends {up}.")
    _say_skipping(plan)
    if plan.privacy is not None:
        _say_privacy(plan, plan.privacy)
    elif experiment.privacy.unit != "none":
        print("No privacy guarantee applies: this setting sends no updates.")
    if start >= plan.last_round:
        print(f"All is done already: {_rounds_in_words(start)}.")
    elif start:
        print(f"Going on after round {start}.")
    if start < plan.last_round and backend.smaller() is None:  # else it was compiled to measure it
        say_compiling()


def say_compiling() -> None:
    """Print that the wait that follows is the compiler's."""
    print(
        "Compiling a round: about a minute for a large network, seconds where it was compiled "
        "before ...",
        flush=True,
    )


def _who_trains(experiment: Experiment, data: Federation) -> str:
    each = data.train.sizes
    sizes, total = " + ".join(map(str, each)), ""
    if len(each) > 20:
        sizes, total = f"{each.min()} to {each.max()}", f" ({each.sum():,} in all)"
    who = "client trains" if len(each) == 1 else "clients train"
    if experiment.setting != "federated":
        who += f" ({experiment.setting})"
    return f"{len(each)} {who} on {sizes} images of {experiment.image_size} px{total}"


def _say_skipping(plan: Plan) -> None:
    """Print that updates that are not finite are skipped, where the experiment does not ask so."""
    if not plan.process.effective_faults.participation.skip_invalid:
        return
    if plan.trained.participation.on_invalid != "skip":
        why = "The run is private"
        if plan.process.aggregator.is_robust:
            why = f"Aggregator {plan.trained.aggregator.name} is robust"
        print(
            f"{why}: updates that are not finite are skipped, as with "
            "--config.participation.on_invalid=skip."
        )


def _say_privacy(plan: Plan, privacy: PrivacyPlan) -> None:
    """Print what all rounds cost, against which adversary, and the last round in the budget."""
    account = privacy.account
    print(
        f"Differential privacy for one {privacy.unit}: noise multiplier "
        f"{account.noise_multiplier:.4g}, epsilon {account.epsilon(privacy.rounds):.3g} after "
        f"{_rounds_in_words(privacy.rounds)} at delta {account.delta:g} (docs/privacy.md says for "
        "what)."
    )
    if privacy.unit == "client":
        _say_sampling(plan, privacy)
    if account.delta * privacy.units >= 1:
        print(
            f"Delta {account.delta:g} is not below 1 / {privacy.units} {privacy.unit}s: what gives "
            "one of them away whole would be allowed. Lower --config.privacy.delta."
        )
    if privacy.ended:
        print(
            f"Round {privacy.rounds} is the last one: another would exceed the budget of epsilon "
            f"{privacy.budget:g}."
        )


def _say_sampling(plan: Plan, privacy: PrivacyPlan) -> None:
    """Print whether epsilon assumes that nobody knows which clients participate."""
    account, sampled = privacy.account, plan.process.faults.participation.participation_rate < 1
    if account.uses[0].rate < 1:
        known = account._replace(uses=(accounting.SamplingEvent(),)).epsilon(privacy.rounds)
        print(
            "This epsilon holds against an adversary who does not know which clients took part in "
            f"which round (metrics.jsonl and the traffic show it); otherwise it is {known:.3g}."
        )
    elif sampled or plan.process.cohort is not None:
        why = "they remember whether they took part"
        if not sampled:
            why = "a cohort of a fixed size is no independent choice"
        print(f"Partial participation does not lower epsilon: {why}.")
