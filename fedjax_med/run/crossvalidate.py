"""Combines the folds of a cross-validation, so that each image is tested once."""

from pathlib import Path
from typing import Any

from fedjax_med.evaluation import comparison, operating_runs, per_client, predictions, tables
from fedjax_med.files import writing


def report(workdir: Path, folders: list[Path]) -> None:
    """Print and write the combined results of the folds."""
    folds = [tables.read_evaluation(folder / "evaluation.json") for folder in folders]
    together, names, group = comparison.read_grouped(folders)
    result: dict[str, Any] = per_client.summarize_predictions(
        together, names, folds[0]["site_names"], group
    )
    if operating := operating_runs.of_folds(folders):
        result["operating"] = operating
    with writing(workdir):
        tables.write_json({**result, "folds": folds}, workdir / "crossvalidation.json")
        predictions.write(together, names, workdir / predictions.NAME, group)
    number = "1 fold" if len(folds) == 1 else f"{len(folds)} folds"
    print(f"\nIn {number}, each image tested once:\n\n{tables.table(result)}")
    if len(folds) > 1:
        print(f"\n{tables.markdown(folds, 'folds')}")
    print(f"\nWritten: {workdir / 'crossvalidation.json'}, {workdir / predictions.NAME}")
