"""Reads what the commands behind docs/results.md wrote."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med.evaluation import comparison, per_client
from studies.results_steps import FOLDS, SEEDS


class Results(NamedTuple):
    """What the commands wrote in their workdirs.

    inside: of the comparison by folds of lesions, inside Train.
    lesions, images, published: of each seed all folds' images together, federated: in folds of
        lesions, in folds of images, and of the nine classes as published in folds of images.
    on_test: of the comparison on Test.
    tested: of its federated runs, one for each seed.
    contribution: of each hospital.
    workdirs: of all federated runs of the recipe.
    dinov2: lesions, images and published with DINOv2-S beside both networks, if it was tried.
    """

    inside: dict[str, Any]
    lesions: list[dict[str, Any]]
    images: list[dict[str, Any]]
    published: list[dict[str, Any]]
    on_test: dict[str, Any]
    tested: list[dict[str, Any]]
    contribution: dict[str, Any]
    workdirs: list[Path]
    dinov2: tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]] | None


def read_all(workdir: Path) -> Results:
    """Read what `steps` wrote."""
    inside = workdir / "inside"
    folds = [
        [inside / f"seed_{seed}/federated/fold_{fold}" for fold in range(FOLDS)] for seed in SEEDS
    ]
    on_test = [workdir / f"test/seed_{seed}/federated" for seed in SEEDS]
    return Results(
        read(inside / "comparison.json"),
        [together(folders) for folders in folds],
        crossvalidated(workdir / "by_image"),
        crossvalidated(workdir / "published"),
        read(workdir / "test/comparison.json"),
        [read(folder / "evaluation.json") for folder in on_test],
        read(workdir / "contribution/contribution.json"),
        [*itertools.chain(*folds), *on_test],
        _with_dinov2(workdir / "dinov2"),
    )


def _with_dinov2(folder: Path) -> tuple[Any, Any, Any] | None:
    last = folder / "published" / f"seed_{SEEDS[-1]}" / "crossvalidation.json"
    if not last.exists():  # not tried, or not to the end
        return None
    lesions, images, published = (
        crossvalidated(folder / name) for name in ("by_lesion", "by_image", "published")
    )
    return lesions, images, published


def crossvalidated(folder: Path) -> list[dict[str, Any]]:
    """Read the cross-validation of each seed."""
    return [read(folder / f"seed_{seed}/crossvalidation.json") for seed in SEEDS]


def together(folders: list[Path]) -> dict[str, Any]:
    """Evaluate the predictions of all folds of one seed, so that each image counts once."""
    predictions, names, group = comparison.read_grouped(folders)
    return per_client.summarize_predictions(predictions, names, (), group)


def read(file: Path) -> dict[str, Any]:
    """Read what a command wrote."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found
