"""What a table says of each image besides its label: its lesion, its source, its diagnosis."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from fedjax_med.data import csv_table
from fedjax_med.data.dataset import Dataset
from fedjax_med.data.spelling import plain
from fedjax_med.errors import UserError, printable, some

FLAG = "--config.metadata"
_ADVICE = f"Give a CSV that says more of the images by {FLAG}.path."


class Metadata(NamedTuple):
    """Columns of a table, for the images of a data set."""

    path: str
    train: dict[str, list[str]]  # [N] by the role of the column, such as "lesion"; "" where absent
    test: dict[str, list[str]]  # [M]


def read(path: str, image: str, columns: Mapping[str, str], dataset: Dataset) -> Metadata:
    """Read columns of a table, and find the rows of the images by their file names.

    Args:
        path: of a CSV.
        image: the heading of the images: file names, with or without folders and suffix.
        columns: the headings by their roles, such as ``{"lesion": "lesion_id"}``.
        dataset: the images; one that the table does not list has no values.

    Raises:
        UserError: The table cannot be read or lacks a column, two rows of one image differ, or it
            lists no image of the data set.
    """
    headings = [(image, f"{FLAG}.image")]
    headings += [(name, f"{FLAG}.{role}") for role, name in columns.items()]
    rows = csv_table.columns(csv_table.content(path, _ADVICE), path, headings, _ADVICE)
    by_name: dict[str, csv_table.Row] = {}
    for row in rows:
        key = plain(PurePosixPath(row.cells[0].replace("\\", "/")).name)
        _check_agree(path, by_name.setdefault(key, row), row)
    splits = (dataset.train, dataset.test)
    found = [[_row(path, name, by_name) for name in of.name.tolist()] for of in splits]
    if not any(map(any, found)):
        raise UserError(
            f"{path} lists no image of the data set: it has {some(r.cells[0] for r in rows[:3])} "
            f"in column {image!r}, the data set {some(dataset.train.name[:3].tolist())}: set "
            f"{FLAG}.path or {FLAG}.image to the right one."
        )
    return Metadata(path, *(_cells(each, list(columns)) for each in found))


def known(cells: Sequence[str]) -> list[str]:
    """Return the cells, with "" for NA and the like."""
    return ["" if cell.casefold() in csv_table.MISSING else cell for cell in cells]


def _check_agree(path: str, one: csv_table.Row, other: csv_table.Row) -> None:
    """Refuse two rows about one image that differ."""
    if one.cells[1:] != other.cells[1:]:
        first, second = sorted((one, other))
        raise UserError(
            f"{path}: lines {first.line} and {second.line} are about the image "
            f"{printable(repr(second.cells[0]))} and differ: leave one of them."
        )


def _row(path: str, name: str, by_name: dict[str, csv_table.Row]) -> csv_table.Row | None:
    """Find the row of an image by its file name, with or without its suffix."""
    file = plain(name.rpartition("/")[2])
    rows = [by_name[form] for form in (file, PurePosixPath(file).stem) if form in by_name]
    for other in rows[1:]:
        _check_agree(path, rows[0], other)
    return rows[0] if rows else None


def _cells(rows: Sequence[csv_table.Row | None], roles: list[str]) -> dict[str, list[str]]:
    """Return the columns of the rows by their roles; an absent row has empty cells."""
    return {
        role: [row.cells[place] if row else "" for row in rows]
        for place, role in enumerate(roles, 1)
    }
