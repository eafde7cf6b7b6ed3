"""Predicts images with a bundle: as `evaluate` predicts the test images of the run."""

import csv
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.artifact import images
from fedjax_med.artifact.bundle import Bundle
from fedjax_med.client.views import ORDER
from fedjax_med.core.types import Params
from fedjax_med.data import feature_cache
from fedjax_med.data.dataset import Split
from fedjax_med.data.images.folders import File
from fedjax_med.errors import UserError, printable
from fedjax_med.evaluation import calibration, tables
from fedjax_med.evaluation.predict import predict
from fedjax_med.evaluation.predictions import cell
from fedjax_med.execution.statistics import at_site
from fedjax_med.files import replacing

LEAST_OF_SITE = 16  # images whose statistics may stand for those of their site
SUFFIXES = (".csv", ".json")
_TOP = 3  # classes shown on the screen
_SHOWN = 10  # images shown on the screen


class Predicted(NamedTuple):
    """What a bundle's model says of files.

    Attributes:
        files: N of them, in order.
        errors: N reasons why a file cannot be used, "" for an image.
        sha256: N hex digests of the files' bytes.
        probabilities: [N, K], NaN for what is no image.
        notes: what was done otherwise than in the run's evaluation, in sentences.
        of_site: whether the statistics of these images were used.
    """

    files: list[File]
    errors: list[str]
    sha256: list[str]
    probabilities: npt.NDArray[np.floating]
    notes: list[str]
    of_site: bool

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """Tell which of the files are images: [N]."""
        return np.array([not error for error in self.errors], bool)


def predict_pixels(bundle: Bundle, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Predict prepared images, calibrated, with the statistics of training: [N, K].

    Args:
        bundle: the model.
        pixels: uint8 [N, S, S, 3].
    """
    return _raw(bundle, bundle.params, _inputs(bundle, pixels))


def predict_files(
    bundle: Bundle,
    files: Sequence[File],
    program: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
) -> Predicted:
    """Predict image files, calibrated, with the views and the preparation of the run's evaluation.

    The statistics of a site's own images are used where the model has a share of them, if there are
    at least 16: all the files count as those of one site.

    Args:
        bundle: the model.
        files: any files; what is no image gets an error.
        program: what predicts prepared images in place of the model (`artifact.program.reader`);
            it knows no statistics of a site.

    Raises:
        UserError: The program does not run, or what the model computes is not finite.
    """
    own = bundle.model.own_statistics > 0 and program is None
    compute = program or functools.partial(predict_pixels, bundle)
    errors: list[str] = []
    sha256: list[str] = []
    parts: list[npt.NDArray[Any]] = []
    levels: set[str] = set()
    for block in images.prepared(files, bundle.info):
        errors += [made.reason for _, made in block]
        sha256 += [made.sha256 for _, made in block]
        levels |= {made.levels for _, made in block} - {""}
        usable = [made for _, made in block if not made.reason]
        if usable:
            pixels = np.stack([made.image for made in usable])
            parts.append(_inputs(bundle, pixels) if own else compute(pixels))
    count = sum(not error for error in errors)
    of_site = own and count >= LEAST_OF_SITE
    if own and parts:
        inputs = np.concatenate(parts)
        params = _of_site(bundle, inputs) if of_site else bundle.params
        parts = [_raw(bundle, params, inputs)]
    found = np.full((len(files), len(bundle.class_names)), np.nan)
    if parts:
        every = _finite(np.concatenate(parts))
        found = found.astype(every.dtype)  # so that numbers are written with their own digits
        found[[not error for error in errors]] = every
    notes = _notes(bundle, of_site, count, levels, program is not None)
    return Predicted(list(files), errors, sha256, found, notes, of_site)


def _inputs(bundle: Bundle, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the input of the model: uint8 [n, S, S, 3], or features float16 [n, V, h, w, ch]."""
    if bundle.frozen is None:
        return pixels
    return feature_cache.computed(pixels, bundle.frozen, ORDER[: bundle.info["tta_views"]])


def _raw(bundle: Bundle, params: Params, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found = predict(bundle.model, params, inputs, bundle.info["tta_views"])
    temperature = bundle.info["temperature"]
    return found if temperature is None else calibration.scale(found, temperature)


def _of_site(bundle: Bundle, inputs: npt.NDArray[Any]) -> Params:
    count = len(inputs)
    texts = np.full(count, "")
    nobody = np.full(count, -1, np.int32)
    hashes = np.zeros((count, 32), np.uint8)
    split = Split(inputs, np.zeros(count, np.int32), texts, texts, hashes, nobody)
    return at_site(bundle.model, bundle.params, split)


def _finite(probabilities: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not np.isfinite(probabilities).all():
        raise UserError(
            "the model computes NaN or infinity of some images: its parameters are too large, "
            "since its training failed or its bundle was changed. Give another model."
        )
    return probabilities


def _notes(
    bundle: Bundle, of_site: bool, count: int, levels: set[str], by_program: bool
) -> list[str]:
    notes, share = [], bundle.model.own_statistics
    if of_site:
        notes.append(
            f"own_statistics={share:g}: these {count} images count as those of one site; others "
            "beside them would change their probabilities."
        )
    elif share and by_program:
        notes.append(
            f"own_statistics={share:g} of the model is not applied: its program knows the "
            "statistics of training alone. Leave --program out to apply it."
        )
    elif share:
        notes.append(
            f"own_statistics={share:g} of the model is not applied: it needs at least "
            f"{LEAST_OF_SITE} images of a site, and there are {count}."
        )
    notes += [f"Levels of more than 8 bits: {text}." for text in sorted(levels)]
    return notes


def write(predicted: Predicted, bundle: Bundle, out: Path) -> None:
    """Write a row for each file, as CSV or JSON by the suffix of `out`.

    Raises:
        UserError: The suffix is another one, or `out` cannot be written.
    """
    if out.suffix.lower() == ".json":
        tables.write_json(_json(predicted, bundle), out)
        return
    names = bundle.class_names
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["file", "predicted", *(cell(f"p_{name}") for name in names), "error"])
        for file, error, row in _rows(predicted):
            if error:
                table.writerow([cell(file.name), "", *[""] * len(names), cell(error)])
                continue
            # The shortest digits that parse back to the same number.
            numbers = [np.format_float_positional(value, trim="0") for value in row]
            table.writerow([cell(file.name), cell(names[int(row.argmax())]), *numbers, ""])


def _rows(predicted: Predicted) -> list[tuple[File, str, npt.NDArray[np.floating]]]:
    return list(zip(predicted.files, predicted.errors, predicted.probabilities, strict=True))


def _json(predicted: Predicted, bundle: Bundle) -> dict[str, Any]:
    names = bundle.class_names
    rows: list[dict[str, Any]] = []
    for file, error, row in _rows(predicted):
        if error:
            rows.append({"file": file.name, "error": error})
            continue
        values = {name: float(value) for name, value in zip(names, row, strict=True)}
        rows.append(
            {"file": file.name, "predicted": names[int(row.argmax())], "probabilities": values}
        )
    return {
        "class_names": list(names),
        "tta_views": bundle.info["tta_views"],
        "temperature": bundle.info["temperature"],
        "own_statistics": {"share": bundle.model.own_statistics, "applied": predicted.of_site},
        "notes": predicted.notes,
        "images": rows,
    }


def shown(predicted: Predicted, bundle: Bundle) -> list[str]:
    """Return the lines for the screen: up to ten images with their three most probable classes."""
    lines = []
    for file, error, row in _rows(predicted)[:_SHOWN] if len(predicted.files) <= _SHOWN else []:
        best = np.argsort(-row, kind="stable")[:_TOP]
        classes = [f"{printable(bundle.class_names[k], 40)} {row[k]:.3f}" for k in best]
        lines.append(f"{printable(file.name)}: {error or ', '.join(classes)}")
    unreadable = int((~predicted.readable).sum())
    lines += [*predicted.notes]
    images = len(predicted.files) - unreadable
    lines.append(f"{images:,} image{'s' * (images != 1)} predicted, {unreadable:,} unreadable.")
    return lines
