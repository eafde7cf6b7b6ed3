"""Predictions of each image, as a CSV table for people, other programs and comparisons."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.files import read_text, replacing

NAME = "predictions.csv"
_LIMIT = 2**30  # bytes: ten million images with the probabilities of nine classes
_BEFORE = ("image", "client", "label")  # the first columns in earlier versions
_FIRST = (*_BEFORE, "predicted")
_GROUP = "group"  # the last column, if the images have groups; a class of this name is quoted
# Spreadsheets compute a cell that begins with one of these; a quote before it makes it a text.
_FORMULA = tuple("=+-@'\uff1d\uff0b\uff0d\uff20")
_ESCAPED = re.compile(r"\\(\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_SHORT = {"\\": "\\", "n": "\n", "r": "\r", "t": "\t"}


class Predictions(NamedTuple):
    """A model's predictions for images, with their clients and true labels."""

    image: npt.NDArray[np.str_]  # [N], "<class>/<file>"
    client: npt.NDArray[np.int32]  # [N], the owner; -1: no client
    label: npt.NDArray[np.int32]  # [N], the true class
    probabilities: npt.NDArray[np.floating]  # [N, K]


class GroupedPredictions(NamedTuple):
    """Predictions, the names of their classes, and the groups of the images."""

    predictions: Predictions
    class_names: tuple[str, ...]  # [K]
    group: npt.NDArray[np.str_] | None  # [N], "" for an image that is alone; None: no groups


def cell(name: str) -> str:
    """Make a text of `name` that neither spreadsheets nor terminals act upon; see `_name`."""
    text = "".join(one if one.isprintable() and one != "\\" else repr(one)[1:-1] for one in name)
    text = text.replace(";", r"\x3b")  # separates cells in many countries
    return f"'{text}" if text.startswith(_FORMULA) else text


def _name(cell: str) -> str:
    """Return the name that `cell` has written."""

    def character(found: re.Match[str]) -> str:
        return _SHORT.get(found[1]) or chr(int(found[1][1:], 16))

    return _ESCAPED.sub(character, cell.removeprefix("'"))


def write(
    predictions: Predictions,
    class_names: Sequence[str],
    file: Path,
    group: npt.NDArray[np.str_] | None = None,
) -> None:
    """Write a row for each image: name, client, class, predicted class, classes' probabilities.

    With `group`, ``[N]``, its group follows. Names with control characters, and those that a
    spreadsheet takes for formulas, are escaped.

    Raises:
        UserError: The file cannot be written.
    """
    with replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out, lineterminator="\n")
        classes = [f"'{name}" if name == _GROUP else cell(name) for name in class_names]
        table.writerow([*_FIRST, *classes, *([] if group is None else [_GROUP])])
        last = [[]] * len(predictions.label) if group is None else [[cell(one)] for one in group]
        for image, client, label, row, its in zip(*predictions, last, strict=True):
            # The shortest digits that parse back to the same number.
            numbers = [np.format_float_positional(value, trim="0") for value in row]
            owner = client if client >= 0 else ""
            predicted = classes[int(np.argmax(row))]
            table.writerow([cell(image), owner, classes[label], predicted, *numbers, *its])


def read(file: Path) -> tuple[Predictions, tuple[str, ...]]:
    """Read the predictions and the class names that `write` wrote, in an earlier version too.

    Raises:
        UserError: There is no such file, or it is not a table of predictions.
    """
    return read_grouped(file)[:2]


def read_grouped(file: Path) -> GroupedPredictions:
    """Read what `read` does, and the groups of the images.

    Raises:
        UserError: As in `read`.
    """
    text = read_text(file, _LIMIT, "Evaluate the run again.")
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        escaped = tuple(header[: len(_FIRST)]) == _FIRST
        first, name = (_FIRST, _name) if escaped else (_BEFORE, str)
        if tuple(header[: len(first)]) != first or len(header) == len(first):
            raise ValueError("expected the columns image, client, label and one for each class")
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        group = None
        if escaped and header[-1] == _GROUP:
            group = np.array(list(map(name, columns.pop())), np.str_)
            header.pop()
        names = tuple(map(name, header[len(first) :]))
        found = Predictions(
            np.array(list(map(name, columns[0])), np.str_),
            np.array([int(client or -1) for client in columns[1]], np.int32),
            np.array([names.index(name(label)) for label in columns[2]], np.int32),
            np.array(columns[len(first) :], np.float32).T.reshape(-1, len(names)),
        )
        return GroupedPredictions(found, names, group)
    except (ValueError, OverflowError, csv.Error) as error:
        raise UserError(
            f"{file} cannot be read as predictions ({error}): evaluate the run again."
        ) from error
