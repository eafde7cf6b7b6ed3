"""Evaluates a bundle on a set of images from outside, in folders by class."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_med.artifact import form, images, predict
from fedjax_med.artifact.bundle import Bundle
from fedjax_med.data import digests
from fedjax_med.data.dataset import Split
from fedjax_med.data.images.folders import File
from fedjax_med.data.images.listing import SUFFIXES, folders_in, images_in
from fedjax_med.data.spelling import folded, of_file
from fedjax_med.errors import UserError, check_name, printable, some
from fedjax_med.evaluation import operating, operating_runs, predictions, tables
from fedjax_med.evaluation.per_client import summarize_predictions
from fedjax_med.evaluation.predictions import Predictions
from fedjax_med.files import unreadable, writing

_SHOWN = 3  # files named on the screen


class Outside(NamedTuple):
    """A set of images from outside.

    Attributes:
        files: the images whose class the bundle knows, each with its label.
        classes: by folder, the class that it stands for.
        unknown: by folder, the number of images of classes that the bundle does not know.
        below: the number of images that are at another depth than ``CLASS/FILE``.
    """

    files: list[File]
    classes: dict[str, str]
    unknown: dict[str, int]
    below: int


def check_out(out: Path) -> None:
    """Refuse to write the figures of other images into a run or into a bundle.

    Raises:
        UserError: `out` is one of them, or a file.
    """
    for name, what in (("experiment.json", "workdir of a run"), (form.INFO, "bundle")):
        if (out / name).exists():
            raise UserError(f"--out={out} is the {what}, which stays as it is: give a new folder.")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file: expected a folder, or a new name.")


def scan(folder: Path, class_names: Sequence[str], mapping: str = "") -> Outside:
    """List the images of ``CLASS/FILE`` or ``Test/CLASS/FILE`` and give each its label.

    A folder stands for the class that `mapping` says, else for the class of its name, in whatever
    spelling; all others are counted.

    Args:
        folder: of the set.
        class_names: of the bundle.
        mapping: ``FOLDER:CLASS,FOLDER:CLASS``.

    Raises:
        UserError: There is no such folder, it has no image of a known class, or `mapping` names a
            folder or a class that does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"--data_dir={folder}: there is no such folder.")
    tests = [one for one in folders_in(folder) if one.name.lower() == "test"]
    root = tests[0] if tests else folder
    found = {of_file(one.name): one for one in folders_in(root)}
    classes = _classes(list(found), class_names, mapping)
    labels = {name: label for label, name in enumerate(class_names)}
    files, unknown, below = [], dict[str, int](), len(images_in(root))
    for name, place in found.items():
        inside = images_in(place)
        below += _below(place) - len(inside)
        if name not in classes:
            unknown[name] = len(inside)
            continue
        label = labels[classes[name]]
        files += [File(one, "test", -1, label, f"{name}/{of_file(one.name)}") for one in inside]
    if not files:
        raise UserError(
            f"{root} has no image of a class of the bundle ({some(class_names)}): expected "
            f"CLASS/FILE or Test/CLASS/FILE, got the folders {some(found) or 'none'}. Folders of "
            "other names get their class by --map=FOLDER:CLASS,..." + _above(images_in(root))
        )
    files.sort(key=lambda file: file.name)
    return Outside(files, classes, unknown, below)


def _above(inside: Sequence[Path]) -> str:
    """Say where to look from if the images lie in the given folder itself."""
    return " The images in the folder itself have no class: give the folder above." * bool(inside)


def _below(folder: Path) -> int:
    """Count the images in `folder` and in all folders below."""
    return sum(one.suffix.lower() in SUFFIXES for one in images.visible(folder))


def _classes(folders: list[str], class_names: Sequence[str], mapping: str) -> dict[str, str]:
    """Return the class of each folder that has one."""
    known = {folded(name): name for name in class_names}
    named = {one: known[folded(one)] for one in folders if folded(one) in known}
    for entry in next(csv.reader([mapping]), []):
        folder, colon, name = entry.partition(":")
        if not colon:
            raise UserError(f"expected --map=FOLDER:CLASS,FOLDER:CLASS, got {entry!r} in it.")
        if folder not in folders and name in folders and folder in class_names:
            raise UserError(
                f"expected --map=FOLDER:CLASS,..., got {entry!r} in it, a class and a folder: "
                f"write {f'{name}:{folder}'!r}."
            )
        check_name(folder, folders, "the folders of --data_dir, for --map")
        check_name(name, class_names, "the classes of the bundle, for --map")
        named[folder] = name
    return named


def evaluate(bundle: Bundle, outside: Outside, out: Path) -> dict[str, Any]:
    """Predict the images and write ``evaluation.json`` and ``predictions.csv`` into `out`.

    Args:
        bundle: the model.
        outside: the images.
        out: a folder, made if it is missing.

    Returns:
        The content of ``evaluation.json``: what `evaluate` writes of a run's test images, without
        what is of its clients, and ``bundle``, ``folders``, ``unknown_classes``, ``unreadable``,
        ``other_depth`` and ``notes``.

    Raises:
        UserError: No image can be read, the bundle's operating points are damaged, or `out` cannot
            be written.
    """
    names = bundle.class_names
    asked, points = thresholds(bundle)
    predicted = predict.predict_files(bundle, outside.files)
    test = _split(predicted)
    if not test.num_examples:
        raise UserError(f"none of the {len(outside.files)} images can be read: {_first(predicted)}")
    rows = predicted.probabilities[predicted.readable]
    found = Predictions(test.name, test.client, test.label, rows)
    evaluation = {
        "bundle": _of_bundle(bundle),
        "test_set": digests.files_and_labels(test, names),
        "folders": outside.classes,
        "unknown_classes": outside.unknown,
        "unreadable": [
            {"file": file.name, "error": error}
            for file, error in zip(predicted.files, predicted.errors, strict=True)
            if error
        ],
        "other_depth": outside.below,
        "notes": predicted.notes,
        **summarize_predictions(found, names, ()),
    }
    if points:
        evaluation["operating"] = operating_runs.of_run(found, None, names, points, asked)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        tables.write_json(evaluation, out / "evaluation.json")
        predictions.write(found, names, out / predictions.NAME)
    return evaluation


def _split(predicted: predict.Predicted) -> Split:
    """Return the images that could be read, without their pixels, each of no client."""
    kept = [
        file for file, error in zip(predicted.files, predicted.errors, strict=True) if not error
    ]
    count = len(kept)
    return Split(
        np.empty((count, 0, 0, 3), np.uint8),
        np.array([file.label for file in kept], np.int32),
        np.array([file.name for file in kept], np.str_),
        np.array(predicted.sha256, np.str_)[predicted.readable],
        np.zeros((count, 32), np.uint8),
        np.full(count, -1, np.int32),
    )


def _first(predicted: predict.Predicted) -> str:
    return f"{predicted.files[0].name} {predicted.errors[0]}."


def _of_bundle(bundle: Bundle) -> dict[str, Any]:
    info = bundle.info
    return {
        "name": bundle.folder.absolute().name,
        "sha256": info["files"][form.TENSORS],
        "config": info["experiment"].get("name", ""),
        "round": info["provenance"].get("round"),
        "checkpoint": info["provenance"].get("checkpoint"),
        "temperature": info["temperature"],
        "tta_views": info["tta_views"],
    }


def thresholds(bundle: Bundle) -> tuple[operating.Operating, dict[str, operating.Point]]:
    """Return a bundle's operating points: what was asked for, and the point of each class.

    Raises:
        UserError: They are not what `export` writes.
    """
    of, asked = bundle.info.get("operating"), operating.Operating()
    if of is None:
        return asked, {}
    try:
        points = {}
        for name, row in of["classes"].items():
            threshold = row["threshold"]
            if name not in bundle.class_names or not (
                threshold is None or (form.is_number(threshold) and 0 <= threshold <= 1)
            ):
                raise ValueError("expected thresholds from 0 to 1 of the bundle's classes")
            others = int(row["validation_others"])
            points[name] = operating.Point(threshold, others, str(row["reason"] or ""))
        asked = operating.Operating(",".join(points), of["specificity"], of["prevalence"])
        operating.check(asked)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = ValueError(f"operating is not what `export` writes ({error})")
        raise unreadable(bundle.folder / form.INFO, wrong, form.ADVICE) from error
    return asked, points


def shown(evaluation: dict[str, Any]) -> list[str]:
    """Return the lines for the screen: the table, and what is not in it."""
    lines = [tables.table(evaluation), ""]
    unknown = {name: count for name, count in evaluation["unknown_classes"].items() if count}
    if unknown:
        each = some(f"{name} ({count:,})" for name, count in unknown.items())
        lines.append(
            f"Left out: {sum(unknown.values()):,} images of classes that the bundle does not know: "
            f"{each}. A class of another name is given by --map=FOLDER:CLASS."
        )
    if wrong := evaluation["unreadable"]:
        first = "; ".join(f"{printable(one['file'])}: {one['error']}" for one in wrong[:_SHOWN])
        more = "; ..." if len(wrong) > _SHOWN else ""
        lines.append(f"Unreadable: {len(wrong):,} files ({first}{more}).")
    if count := evaluation["other_depth"]:
        lines.append(f"Left out: {count:,} images that are not directly in a class's folder.")
    return [*lines, *evaluation["notes"]]
