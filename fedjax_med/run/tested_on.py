"""Keeps the test sets of runs apart: none replaces another, and their figures are not averaged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_med.data.federation import Federation
from fedjax_med.errors import UserError
from fedjax_med.evaluation import tables
from fedjax_med.run.load import SavedRun, run_data
from fedjax_med.run.workdir import read_workdir


def check_test_set(workdir: Path, data: Federation) -> None:
    """Refuse to replace the evaluation of `workdir` by that on another test set.

    Args:
        workdir: of the run; without a sound evaluation there is nothing to keep.
        data: the data to evaluate on.

    Raises:
        UserError: The evaluation there is on other test images.
    """
    file = workdir / "evaluation.json"
    try:
        evaluated = tables.read_evaluation(file).get("test_set")
    except UserError:  # there is none, or it is damaged and may be replaced
        return
    if evaluated is None:  # written by an earlier version, which left the digest in the run
        given, evaluated = data.test_digest, read_workdir(workdir).get("test", data.test_digest)
    else:
        given = data.test_set
    if evaluated != given:
        raise UserError(
            f"the test images differ from those that {file} is about, and it would be replaced: "
            "give --data_dir=FOLDER with the same test images, or move it elsewhere to evaluate on "
            "these."
        )


def check_same_test_set(runs: Sequence[SavedRun], data_dir: str, cache_dir: str) -> None:
    """Refuse to evaluate runs together that were not trained for the same test set.

    Runs with other seeds, folds, sizes of images or methods are about the same test set. Nothing is
    written before all are checked, so an evaluation that may not be replaced is told of here.

    Args:
        runs: their saved descriptions.
        data_dir: the folder of the images, if they have moved.
        cache_dir: where prepared data is kept, if it has moved.

    Raises:
        UserError: The message names two runs whose test images or classes differ, a run that is
            given twice, or an evaluation that is on other test images.
    """
    _check_once(runs)
    first, *others = [(run.workdir, _of(run, data_dir, cache_dir)) for run in runs]
    for workdir, found in others:
        if found != first[1]:
            raise UserError(
                f"{first[0]} and {workdir} have other test images or classes, so that a mean over "
                "both says nothing: evaluate the runs of each data set by themselves."
            )


def _check_once(runs: Sequence[SavedRun]) -> None:
    """Refuse a run that is given twice: it would be averaged as two that agree."""
    seen: dict[Path, Path] = {}
    for run in runs:
        folder = run.workdir.resolve()
        if folder in seen:
            raise UserError(
                f"{seen[folder]} and {run.workdir} are the same run, so that a mean over both says "
                "nothing: give each --workdir once."
            )
        seen[folder] = run.workdir


def _of(run: SavedRun, data_dir: str, cache_dir: str) -> Any:
    """Return the digest of the run's test set, and into how many folds it is divided."""
    digest = "" if data_dir else run.saved.get("test_set", "")
    evaluated = (run.workdir / "evaluation.json").exists()
    # Test images may have come after training, and earlier versions wrote no digest.
    if evaluated or not digest:
        data = run_data(run, data_dir, cache_dir)
        check_test_set(run.workdir, data)
        digest = digest or data.test_set
    return digest, run.resolved.asked.folds
