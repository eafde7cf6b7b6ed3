"""The operating points of runs: of one, of the folds of a cross-validation, of several to compare.

Each run has its own thresholds, from its own validation images.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation import clusters, comparison, operating, tables
from fedjax_med.evaluation.operating import Operating, Point
from fedjax_med.evaluation.operating_figures import FIGURES, Scored, figures
from fedjax_med.evaluation.predictions import Predictions
from fedjax_med.files import unreadable

_ADVICE = "Evaluate the run again."


def points(
    asked: Operating,
    class_names: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    sizes: npt.NDArray[np.integer],
) -> dict[str, Point]:
    """Choose the operating point of each class asked for, on the clients' validation images.

    Args:
        asked: which classes, and which specificity.
        class_names: ``K`` names.
        probabilities: ``[V, K]``, the clients' validation images in client order.
        labels: ``[V]``.
        sizes: ``[C]``, the number of images of each client, V in all.

    Raises:
        UserError: There is no such class.
    """
    names = list(class_names)
    return {
        name: operating.of_clients(
            probabilities, labels, sizes, names.index(name), asked.specificity
        )
        for name in operating.classes(asked, names)
    }


def of_run(
    predicted: Predictions,
    group: npt.NDArray[np.str_] | None,
    class_names: Sequence[str],
    chosen: dict[str, Point],
    asked: Operating,
) -> dict[str, Any]:
    """Report the operating points of one run on test images, for ``evaluation.json``.

    Args:
        predicted: of the test images.
        group: ``[N]``, the names of their groups; None: they are independent.
        class_names: ``K`` names.
        chosen: the classes' `points`.
        asked: which classes, specificity and prevalence.

    Returns:
        ``specificity`` and ``prevalence`` as asked for, and ``classes``: by name ``threshold``,
        ``validation_others`` (the number of validation images of other classes), ``reason`` if
        there is no threshold or it rests on little, and what `figures` returns.
    """
    names, rows = list(class_names), {}
    for name, point in chosen.items():
        seen = _tested([(predicted, group, point.threshold)], names.index(name))
        rows[name] = {
            "threshold": point.threshold,
            "validation_others": point.others,
            **({"reason": point.reason} if point.reason else {}),
            **figures(seen, asked),
        }
    return {
        "specificity": asked.specificity,
        "prevalence": asked.prevalence,
        "classes": rows,
    }


# The predictions of one run, the names of the images' groups, and its threshold.
_Part = tuple[Predictions, npt.NDArray[np.str_] | None, float | None]


def _tested(parts: Sequence[_Part], k: int) -> Scored:
    """Return the images of several runs as class `k` sees them, each by its run's threshold."""
    # As predictions.csv is read.
    each = [found.probabilities[:, k].astype(np.float32) for found, _, _ in parts]
    labels = np.concatenate([found.label for found, _, _ in parts])
    called = [
        scores >= np.float32(threshold)
        for scores, (_, _, threshold) in zip(each, parts, strict=True)
        if threshold is not None
    ]
    groups = [group for _, group, _ in parts if group is not None]
    return Scored(
        labels == k,
        np.concatenate(each),
        np.concatenate(called) if len(called) == len(parts) else None,
        clusters.numbered(np.concatenate(groups)) if len(groups) == len(parts) else None,
    )


def read(folder: Path) -> dict[str, Any]:
    """Read what `of_run` returned for the run in `folder`; {} if nothing was asked for.

    Raises:
        UserError: The run was not evaluated, or its evaluation is damaged.
    """
    file = folder / "evaluation.json"
    found: dict[str, Any] = tables.read_evaluation(file).get("operating", {})
    try:
        if found:
            _asked(found)
            for row in found["classes"].values():
                [float(row[name] or 0) for name in ("threshold", *FIGURES)]
                int(row["validation_others"]), str(row.get("reason"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = ValueError("operating is not what `evaluate` writes")
        raise unreadable(file, wrong, _ADVICE) from error
    return found


def _asked(found: dict[str, Any]) -> tuple[float, float, tuple[str, ...]]:
    """Return what was asked for: specificity, prevalence, classes; runs must agree on it."""
    return float(found["specificity"]), float(found["prevalence"]), tuple(found["classes"])


def _agree(each: Sequence[dict[str, Any]]) -> bool:
    """Return whether the same was asked of all runs, and anything at all."""
    return all(each) and len({_asked(one) for one in each}) == 1


def of_folds(folders: Sequence[Path]) -> dict[str, Any]:
    """Report the operating points of a cross-validation, each image by its own fold's threshold.

    Returns:
        As `of_run`, with ``thresholds``, ``validation_others`` and ``reasons``, each by the name of
        the fold's folder; {} if nothing was asked for, or not the same of all folds.

    Raises:
        UserError: As in `read`.
    """
    each = [read(folder) for folder in folders]
    if not _agree(each):
        return {}
    specificity, prevalence, names = _asked(each[0])
    asked = Operating(",".join(names), specificity, prevalence)
    predicted = [comparison.read_grouped([folder]) for folder in folders]
    rows = {}
    for name in names:
        of = {folder.name: one["classes"][name] for folder, one in zip(folders, each, strict=True)}
        parts = [
            (one.predictions, one.group, row["threshold"])
            for one, row in zip(predicted, of.values(), strict=True)
        ]
        rows[name] = {
            "thresholds": {fold: row["threshold"] for fold, row in of.items()},
            "validation_others": {fold: row["validation_others"] for fold, row in of.items()},
            "reasons": {fold: row["reason"] for fold, row in of.items() if "reason" in row},
            **figures(_tested(parts, predicted[0].class_names.index(name)), asked),
        }
    return {"specificity": specificity, "prevalence": prevalence, "classes": rows}


def compared(settings: dict[str, list[list[list[Path]]]]) -> dict[str, Any]:
    """Report the figures of several settings, each as a list over seeds.

    Args:
        settings: by name, for each seed the runs that count as one result, each as the folders of
            its folds, or a single folder.

    Returns:
        ``specificity`` and ``classes``: name of class to setting to each of `FIGURES` to values
        by seed, means over the runs that count as one (None if one of them is undefined); {} if
        nothing was asked for, or not the same of all runs.

    Raises:
        UserError: As in `read`.
    """
    found = {
        name: [[of_folds(run) if len(run) > 1 else read(run[0]) for run in one] for one in seeds]
        for name, seeds in settings.items()
    }
    every = [run for seeds in found.values() for one in seeds for run in one]
    if not _agree(every):
        return {}
    specificity, _, names = _asked(every[0])
    classes = {
        name: {
            setting: {
                key: [_mean([run["classes"][name][key] for run in one]) for one in seeds]
                for key in FIGURES
            }
            for setting, seeds in found.items()
        }
        for name in names
    }
    return {"specificity": specificity, "classes": classes}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
