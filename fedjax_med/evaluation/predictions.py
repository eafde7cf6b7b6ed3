"""Predictions of each image, as a CSV table for people, other programs and comparisons."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.files import read_text, replacing

NAME = "predictions.csv"
_LIMIT = 2**30  # bytes: ten million images with the probabilities of nine classes
_FIRST = ("image", "client", "label")


class Predictions(NamedTuple):
    """A model's predictions for images, with their clients and true labels."""

    image: npt.NDArray[np.str_]  # [N], "<class>/<file>"
    client: npt.NDArray[np.int32]  # [N], the owner; -1: no client
    label: npt.NDArray[np.int32]  # [N], the true class
    probabilities: npt.NDArray[np.floating]  # [N, K]


def write(predictions: Predictions, class_names: Sequence[str], file: Path) -> None:
    """Write a row for each image: its name, client and class, and each class's probability.

    Raises:
        UserError: The file cannot be written.
    """
    with replacing(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow([*_FIRST, *class_names])
        for image, client, label, row in zip(*predictions, strict=True):
            # The shortest digits that parse back to the same number.
            numbers = [np.format_float_positional(value, trim="0") for value in row]
            table.writerow([image, client if client >= 0 else "", class_names[label], *numbers])


def read(file: Path) -> tuple[Predictions, tuple[str, ...]]:
    """Read the predictions and the class names that `write` wrote.

    Raises:
        UserError: There is no such file, or it is not a table of predictions.
    """
    text = read_text(file, _LIMIT, "Evaluate the run again.")
    try:
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if tuple(header[:3]) != _FIRST or len(header) < 4:
            raise ValueError("expected the columns image, client, label and one for each class")
        names = tuple(header[3:])
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        return Predictions(
            np.array(columns[0], np.str_),
            np.array([int(client or -1) for client in columns[1]], np.int32),
            np.array([names.index(label) for label in columns[2]], np.int32),
            np.array(columns[3:], np.float32).T.reshape(-1, len(names)),
        ), names
    except (ValueError, OverflowError, csv.Error) as error:
        raise UserError(
            f"{file} cannot be read as predictions ({error}): evaluate the run again."
        ) from error
