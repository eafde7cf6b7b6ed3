"""Loads a run from its workdir: experiment, data, plan and checkpoint."""

import contextlib
import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.data.federation import Federation
from fedjax_med.errors import UserError
from fedjax_med.execution.settings import fix_settings
from fedjax_med.experiment import components, config, load_data, resolve
from fedjax_med.experiment.plan import Plan, first_state, make_plan, with_statistics
from fedjax_med.experiment.resolve import Resolved
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.provenance import identity, reported_digest
from fedjax_med.run.resume import no_checkpoint
from fedjax_med.run.workdir import CACHE_DIR, REPORTED, read_workdir


class SavedRun(NamedTuple):
    """The saved description of a run.

    workdir: of the run.
    saved: the content of ``experiment.json``.
    resolved: the run's experiment.
    """

    workdir: Path
    saved: dict[str, Any]
    resolved: Resolved


class LoadedRun(NamedTuple):
    """A run with its data and the plan by which it was trained."""

    workdir: Path
    plan: Plan
    data: Federation


def read_run(workdir: Path, allowed: Collection[str] = ()) -> SavedRun:
    """Read the saved description of the run in `workdir`.

    Args:
        workdir: of the run, which somebody else may have made.
        allowed: the components from elsewhere, as ``MODULE:FUNCTION``, that may be imported.

    Raises:
        UserError: There is no run, its experiment cannot be read or was changed, or it names a
            component from elsewhere that is not in `allowed`.
    """
    saved = read_workdir(workdir)
    experiment = config.from_dict(saved["experiment"])
    if saved.get(REPORTED, digest := reported_digest(experiment)) != digest:
        raise UserError(
            f"{workdir / 'experiment.json'} is not what `fedjax-med train` wrote: tta_views, "
            "calibrate, operating, checkpoint.tested or the name has been changed or damaged. Give "
            "the `train` command once more, which writes it anew."
        )
    _check_allowed(workdir, components.from_elsewhere(experiment), allowed)
    experiment = resolve.complete(experiment)
    fix_settings()  # again: components were imported
    return SavedRun(workdir, saved, resolve.settle(experiment))


def _check_allowed(workdir: Path, named: Collection[str], allowed: Collection[str]) -> None:
    """Refuse components of which nobody but the workdir says that their code may run."""
    if not set(named) <= ({allowed} if isinstance(allowed, str) else set(allowed)):
        names = ",".join(sorted(named))
        raise UserError(
            f"{workdir} was trained with components from outside of fedjax_med ({names}), whose "
            "code would run now. If it is yours or you trust it, give "
            f"--allow_components={names} (from a program allow_components=[...])."
        )


def load_run(
    run: SavedRun, data_dir: str = "", cache_dir: str = "", *, from_start: bool = False
) -> LoadedRun:
    """Load the data of a run and plan it again, as it was trained.

    Args:
        run: its saved description.
        data_dir: the folder of the images, if they have moved.
        cache_dir: where prepared data is kept, if it has moved.
        from_start: whether the initial weights are needed; otherwise a checkpoint replaces them.

    Raises:
        UserError: The run was trained on other data.
    """
    data = run_data(run, data_dir, cache_dir)
    before, privacy = "", run.saved.get("privacy", {})
    if not from_start:
        with _read_only(run.workdir, run.resolved.asked) as checkpoints:
            before = checkpoints.client_map()
            # The checkpoint's has a checksum; experiment.json may have been changed.
            privacy = checkpoints.last_identity().get("privacy", privacy)
    noise = privacy.get("noise_multiplier")
    plan = make_plan(
        run.resolved, data.class_counts, data.train.sizes, before=before, noise_multiplier=noise
    )
    if from_start:
        plan = with_statistics(plan, data.train)
    return LoadedRun(run.workdir, plan, data)


def run_data(run: SavedRun, data_dir: str = "", cache_dir: str = "") -> Federation:
    """Load the data of a run.

    Args:
        run: its saved description.
        data_dir: the folder of the images, if they have moved.
        cache_dir: where prepared data is kept, if it has moved.

    Raises:
        UserError: The run was trained on other data.
    """
    experiment, saved = run.resolved.asked, run.saved
    try:
        data = load_data.load(
            experiment,
            data_dir or saved["data_dir"],
            cache_dir or saved.get("cache_dir") or CACHE_DIR,
        )
    except UserError as error:
        options = experiment.partition.options, experiment.dataset.options
        tables = *(each.get("path") for each in options), experiment.metadata.path
        if not any((*tables, experiment.corrections, experiment.groups.path)):
            raise
        raise UserError(
            f"{error} (If the table has moved: give the `train` command once more, with its new "
            "place.)"
        ) from error
    if data.digest != saved["data"]:
        raise UserError(
            f"the train images or their division differ from those that {run.workdir} was trained "
            "on (by most policies train images that are also in Test leave). Give "
            "--data_dir=FOLDER with the same data."
        )
    return data


def _read_only(
    workdir: Path, experiment: config.Experiment
) -> contextlib.AbstractContextManager[Checkpoints]:
    return contextlib.closing(Checkpoints(workdir, experiment.checkpoint, read_only=True))


class RestoredRun(NamedTuple):
    """The state of a checkpoint, and the number of rounds that the run has saved."""

    state: FederatedState
    done: int


def restore(run: LoadedRun, which: str = "last") -> RestoredRun:
    """Restore the checkpoint of `run` that `which` names.

    Args:
        run: the loaded run.
        which: ``best`` (by validation) or ``last``.

    Raises:
        UserError: There is no sound checkpoint, or it is of another experiment.
    """
    plan, data = run.plan, run.data
    with _read_only(run.workdir, plan.experiment) as checkpoints:
        tag = identity(config.to_dict(plan.experiment), data.digest, plan.backend.client_map)
        best = functools.partial(checkpoints.best_first, plan.last_round)
        order = best if which == "best" else checkpoints.latest_first
        restored = checkpoints.restore(lambda: first_state(plan, data.train.shapes()), tag, order)
        done = max(checkpoints.rounds(), default=0)
    if restored is None:
        raise UserError(no_checkpoint(run.workdir, done))
    return RestoredRun(restored.state, done)
