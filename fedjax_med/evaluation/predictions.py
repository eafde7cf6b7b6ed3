"""Predictions image by image, as a table that people, other programs and comparisons read."""

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
_LIMIT = 2**30  # bytes: of ten million images, each with its probabilities of nine classes
_FIRST = ("image", "client", "label")


class Predictions(NamedTuple):
    """What a model says of each image, and what is true."""

    image: npt.NDArray[np.str_]  # [N], "<class>/<file>"
    client: npt.NDArray[np.int32]  # [N], whose it is; -1: nobody's
    label: npt.NDArray[np.int32]  # [N]
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
            # The digits that give the same float32 again.
            numbers = [np.format_float_positional(value, trim="0") for value in row]
            table.writerow([image, client if client >= 0 else "", class_names[label], *numbers])


def read(file: Path) -> tuple[Predictions, tuple[str, ...]]:
    """What `write` has written: the predictions and the classes' names.

    Raises:
        UserError: There is no such file, or it is another kind of table.
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
