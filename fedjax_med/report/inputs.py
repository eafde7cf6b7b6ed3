"""Reads what the workdir of a run or of a comparison holds; the data is not needed."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjax_med.errors import UserError
from fedjax_med.evaluation import metrics, predictions, tables
from fedjax_med.evaluation.predictions import Predictions
from fedjax_med.experiment import config
from fedjax_med.files import read_object, unreadable
from fedjax_med.run.metrics_file import Record, read_records
from fedjax_med.run.workdir import read_workdir

COMPARISON = "comparison.json"
_LIMIT = 2**28  # bytes of a JSON file
_EVERY = 2**31  # rounds
# What writes each of the files.
ADVICE = {
    "audit.json": "Give the `train` command again.",
    "contribution.json": "Give the `contribution` command again.",
    COMPARISON: "Give the `compare` command again.",
    "evaluation.json": "Evaluate the run again.",
    "experiment.json": "Give the `train` command again.",
    "metrics.jsonl": "Give the `train` command again.",
    predictions.NAME: "Evaluate the run again.",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir holds; a file that is not there is {}, (), or None.

    workdir: of the run or the comparison.
    saved: ``experiment.json``, of a comparison that of its first federated run.
    experiment: the experiment in it.
    records: ``metrics.jsonl``, by round.
    evaluation: ``evaluation.json``.
    predicted: ``predictions.csv``.
    class_names: of the predictions.
    audit: ``audit.json``.
    contribution: ``contribution.json``.
    comparison: ``comparison.json``.
    """

    workdir: Path
    saved: dict[str, Any] = dataclasses.field(default_factory=dict)
    experiment: config.Experiment | None = None
    records: tuple[Record, ...] = ()
    evaluation: dict[str, Any] = dataclasses.field(default_factory=dict)
    predicted: Predictions | None = None
    class_names: tuple[str, ...] = ()
    audit: dict[str, Any] = dataclasses.field(default_factory=dict)
    contribution: dict[str, Any] = dataclasses.field(default_factory=dict)
    comparison: dict[str, Any] = dataclasses.field(default_factory=dict)


def read(workdir: Path) -> Run:
    """Read the run or the comparison in `workdir`.

    Raises:
        UserError: There is neither, or a file is damaged.
    """
    if (workdir / COMPARISON).exists():
        return _comparison(workdir)
    if not (workdir / "experiment.json").exists():
        raise UserError(
            f"expected a workdir that `fedjax-med train` or `compare` wrote, but {workdir} has "
            "neither an experiment.json nor a comparison.json."
        )
    saved = read_workdir(workdir)
    evaluation = _optional(workdir / "evaluation.json", tables.read_evaluation)
    predicted, names = _predictions(workdir / predictions.NAME, evaluation)
    return Run(
        workdir,
        saved,
        config.from_dict(saved["experiment"]),
        records=tuple(read_records(workdir / "metrics.jsonl", _EVERY)),
        evaluation=evaluation,
        predicted=predicted,
        class_names=names,
        audit=_optional(workdir / "audit.json", _object),
        contribution=_optional(workdir / "contribution.json", _object),
    )


def _comparison(workdir: Path) -> Run:
    found = _optional(workdir / COMPARISON, _object)
    try:
        seed, folds = int(found["seeds"][0]), int(found["folds"])
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(workdir / COMPARISON) from error
    folder = workdir / f"seed_{seed}" / "federated"
    folder = folder / "fold_0" if folds else folder
    if not (folder / "experiment.json").exists():
        return Run(workdir, comparison=found)
    saved = read_workdir(folder)
    return Run(workdir, saved, config.from_dict(saved["experiment"]), comparison=found)


def damaged(file: Path) -> UserError:
    """Build the error for a `file` whose values are not what the commands write."""
    command = "compare" if file.name == COMPARISON else "the commands"
    wrong = ValueError(f"its values are not what {command.replace('the', 'fedjax-med')} write")
    return unreadable(file, wrong, ADVICE[file.name])


def _object(file: Path) -> dict[str, Any]:
    return read_object(file, _LIMIT, ADVICE[file.name])


def _optional(file: Path, reader: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Read a file of finite numbers, {} where there is none."""
    found = reader(file) if file.exists() else {}
    if not _all_finite(found):
        raise damaged(file)
    return found


def _all_finite(value: Any) -> bool:
    """Return whether no number in `value`, parsed from JSON, is infinite or NaN."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
        elif isinstance(one, float) and not math.isfinite(one):
            return False
    return True


def _predictions(
    file: Path, evaluation: dict[str, Any]
) -> tuple[Predictions | None, tuple[str, ...]]:
    """Read predictions that metrics can be computed of, and that are those of `evaluation`."""
    if not file.exists():
        return None, ()
    found, names = predictions.read(file)
    metrics.check(found.probabilities, found.label, f"{file}: ")
    classes = evaluation.get("per_class", dict.fromkeys(names))
    if not isinstance(classes, dict):
        raise damaged(file.with_name("evaluation.json"))
    told = evaluation.get("n", len(found.label)), list(classes)
    if told != (len(found.label), list(names)):
        raise UserError(
            f"{file} and evaluation.json beside it are of different images or classes. "
            f"{ADVICE[file.name]}"
        )
    return found, names
