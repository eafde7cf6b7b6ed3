"""Trains the runs of docs/methods.md that are missing; each has a folder of its own."""

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.execution.backend import repeat_bits
from fedjax_med.execution.program_cache import cache_programs
from fedjax_med.experiment.config import Experiment
from fedjax_med.run.provenance import code_version
from fedjax_med.run.train import TrainJob, train
from studies.processes import Task, run_all
from studies.tables import CONFIG, FOLDS, Run, flags

ROOT = Path(__file__).parent.parent.parent
CAPACITY = 1024  # examples that every client has room for, so that a method compiles once
DIVERGED = "diverged.txt"  # in the folder of a run that came to NaN or infinity


class Folders(NamedTuple):
    """The images, their prepared form, and the folder that holds the folders of the runs."""

    data_dir: str
    cache_dir: str
    workdir: Path


def folder_of(run: Run, workdir: Path) -> Path:
    """Return the folder of a run: equal experiments share one, those of other code do not."""
    config, changes = (ROOT / CONFIG).read_text(), sorted(flags(run.changes))
    text = json.dumps([code_version(), config, run.seed, changes])
    return workdir / hashlib.sha256(text.encode()).hexdigest()[:16]


def is_done(folder: Path) -> bool:
    """Return whether a run has an evaluation in its folder, or has diverged."""
    return (folder / "evaluation.json").exists() or (folder / DIVERGED).exists()


def command(run: Run) -> list[str]:
    """Return the arguments of `fedjax-med` that train the experiment, without its folders."""
    fold = {"seed": run.seed, "fold": run.seed % FOLDS}
    return ["train", f"--config={ROOT / CONFIG}", *flags({**fold, **run.changes})]


def experiment_of(run: Run) -> Experiment:
    """Read the configuration and change its fields.

    Raises:
        UserError: A field does not exist or does not take its value.
    """
    name, *arguments = command(run)
    _, parsed = cli.parse(name, arguments)
    experiment: Experiment = parsed.config
    return experiment


def train_run(run: Run, folders: Folders) -> int:
    """Train and test a run, or resume it where it stopped; return the exit code."""
    folder = folder_of(run, folders.workdir)
    places = f"--data_dir={folders.data_dir}", f"--cache_dir={folders.cache_dir}"
    print(" ".join(["fedjax-med", *command(run), *places, f"--workdir={folder}", "--evaluate"]))
    repeat_bits()
    cache_programs(folders.cache_dir)
    try:
        experiment = experiment_of(run)
        tested = experiment.checkpoint.tested
        return train(TrainJob(experiment, *folders[:2], folder, tested, capacity=CAPACITY))
    except UserError as error:
        print(error, file=sys.stderr)
        if "NaN or infinity" not in str(error):
            return 2
        (folder / DIVERGED).write_text(str(error))  # which is a result, too
        return 0


def train_missing(runs: Sequence[Run], folders: Folders, at_a_time: int) -> int:
    """Train the runs that are not done, so many at a time; return how many went wrong."""
    missing: dict[Path, Run] = {}
    for run in runs:
        folder = folder_of(run, folders.workdir)
        if not is_done(folder):
            missing.setdefault(folder, run)
    tasks = [
        Task(run.name, train_run, (run, folders), folder / "log.txt")
        for folder, run in missing.items()
    ]
    wrong = 0
    for task, code in run_all(tasks, at_a_time):
        wrong += code != 0
        if (task.log.parent / DIVERGED).exists():
            print(f"{task.name}: diverged", flush=True)
    return wrong
