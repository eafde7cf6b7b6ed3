"""The lines of a table of images: each image with its class, split, site and group."""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_med.data import csv_table
from fedjax_med.data.datasets._table_columns import (
    FLAG,
    Columns,
    Headings,
    bit,
    find,
    is_header,
    told,
)
from fedjax_med.data.spelling import folded, shown, spellings
from fedjax_med.errors import UserError, check_name, printable, some
from fedjax_med.files import open_regular, unreadable

LIMIT = 2**28  # bytes of a table
_CLASSES = 1_000
_LONGEST = 200  # bytes of a class or a site, which `fedjax-med partition` makes a folder of
_ADVICE = f"Give a CSV of images and their labels by {FLAG}.path."
_TRAIN = {"train", "training"}
_VALIDATION = {"val", "valid", "validation", "dev"}
_TEST = {"test", "testing"}


class Row(NamedTuple):
    """One line with a label."""

    line: int
    image: str  # as it is written
    label: str  # the class
    split: str  # "train" or "test"
    site: str
    group: str


class Rows(NamedTuple):
    """What a table says."""

    rows: list[Row]
    said: str  # which columns were used, and what was left out
    unlabelled: int  # lines without a label, which are left out
    column: str  # the heading of the groups, or ""
    sha256: str  # of the file
    split: bool  # whether it has a column of splits


def check_path(path: str) -> None:
    """Refuse a table that is not given, or no file that can be opened.

    Raises:
        UserError: The message says how to give one.
    """
    if not path:
        raise UserError(f"the data set 'table' needs a CSV of images and labels: set {FLAG}.path.")
    try:
        with open_regular(Path(path), LIMIT):
            pass
    except OSError as error:
        raise unreadable(Path(path), error, _ADVICE) from error


def pairs(names: str) -> list[tuple[str, str]]:
    """Split ``OLD:NEW,OLD:NEW`` into its pairs; one with a comma stands in double quotes.

    Raises:
        UserError: `names` is something else.
    """
    found = []
    for entry in next(csv.reader([names], skipinitialspace=True), []):
        old, colon, new = (part.strip() for part in entry.rpartition(":"))
        if not (old and colon and new):
            raise UserError(f"expected {FLAG}.names='OLD:NEW,OLD:NEW', got {entry!r} in it.")
        found.append((old, new))
    return found


def read(path: str, wanted: Headings, names: str) -> Rows:
    """Read a table.

    Args:
        path: of a CSV.
        wanted: the headings of its columns that are given.
        names: ``OLD:NEW,OLD:NEW``, labels of the table and the classes that they stand for.

    Raises:
        UserError: It cannot be read, lacks a column, or a line is not as it must be.
    """
    check_path(path)
    data = csv_table.content(path, _ADVICE, LIMIT)
    header, below = csv_table.sheet(data, path, is_header(wanted), _ADVICE)
    columns = find(path, header, wanted, below)
    reader = _Reader(path, header, columns, dict(pairs(names)))
    rows = [row for line, cells in below() if (row := reader.row(line, cells))]
    reader.check_names()
    _check_classes(path, {row.label for row in rows})
    _check_sites(path, {row.site for row in rows} - {""})
    said = [told(header, columns, wanted)]
    if reader.validation:
        said.append(
            f"{reader.validation:,} rows for validation count as Train (parts for validation are "
            "held out by --config.validation_fraction)"
        )
    if reader.unlabelled:
        said.append(f"left out: {reader.unlabelled:,} rows without a label")
    return Rows(
        rows,
        "; ".join(said),
        reader.unlabelled,
        header[columns.group] if columns.group >= 0 else "",
        hashlib.sha256(data).hexdigest(),
        columns.split >= 0,
    )


class _Reader:
    """Reads lines, and counts what it leaves out."""

    def __init__(
        self, path: str, header: list[str], columns: Columns, names: dict[str, str]
    ) -> None:
        self._path, self._header, self._columns, self._names = path, header, columns, names
        self._known: set[str] = set()  # the labels of the table
        self.unlabelled, self.validation = 0, 0

    def row(self, line: int, cells: Sequence[str]) -> Row | None:
        """Read one line; return None if it has no label.

        Raises:
            UserError: It is not as it must be.
        """
        columns = self._columns
        self._check(line, (columns.image, *columns.label, columns.site, columns.group), cells)
        label = self._label(line, cells)
        if not label:
            self.unlabelled += 1
            return None
        if not (image := cells[columns.image]):
            raise UserError(f"{self._path}, line {line}: the name of the image is missing.")
        split = self._split(line, cells[columns.split]) if columns.split >= 0 else "train"
        site = cells[columns.site] if columns.site >= 0 else ""
        if columns.site >= 0 and site.casefold() in csv_table.MISSING:
            raise UserError(
                f"{self._path}, line {line}: the image {printable(repr(image))} has no site: give "
                f"it one, or leave out {FLAG}.site."
            )
        group = cells[columns.group] if columns.group >= 0 else ""
        return Row(line, image, label, split, site, group)

    def check_names(self) -> None:
        """Refuse names of labels that the table does not have."""
        for old in self._names:
            check_name(old, self._known, f"the labels of {self._path} ({FLAG}.names)")

    def _check(self, line: int, places: Iterable[int], cells: Sequence[str]) -> None:
        """Refuse cells of several lines, as a quotation that is not closed makes."""
        for at in places:
            if at >= 0 and "\n" in cells[at]:
                raise UserError(
                    f"{self._path}, line {line}: the cell {printable(repr(cells[at]))} of column "
                    f"{printable(repr(self._header[at]))} has several lines: is a quotation mark "
                    "missing?"
                )

    def _label(self, line: int, cells: Sequence[str]) -> str:
        if len(self._columns.label) == 1:
            label = cells[self._columns.label[0]]
        else:
            label = self._hot(line, cells)
        self._known.add(label)
        if label in self._names:
            return self._names[label]
        return "" if label.casefold() in csv_table.MISSING else label

    def _hot(self, line: int, cells: Sequence[str]) -> str:
        """Return the heading of the only column that has a 1; "" if all cells are empty."""
        places = self._columns.label
        self._known.update(self._header[at] for at in places)
        if all(cells[at].casefold() in csv_table.MISSING for at in places):
            return ""
        bits = {self._header[at]: bit(cells[at]) for at in places}
        ones = [name for name, value in bits.items() if value == 1]
        odd = [at for at in places if bit(cells[at]) is None]
        if len(ones) != 1 or odd:
            found = f"{len(ones)} ({some(ones)})" if ones else "none"
            if odd:
                found = f"{printable(repr(cells[odd[0]]))} in {printable(self._header[odd[0]])}"
            raise UserError(
                f"{self._path}, line {line}, image {printable(repr(cells[self._columns.image]))}: "
                f"expected one 1 and else 0 in {some(bits)}, got {found} (the columns may be given "
                f"as {FLAG}.label={printable('+'.join(list(bits)[:2]))})."
            )
        return ones[0]

    def _split(self, line: int, cell: str) -> str:
        name = folded(cell)
        if name in _TEST:
            return "test"
        self.validation += name in _VALIDATION
        if name in _TRAIN | _VALIDATION:
            return "train"
        raise UserError(
            f"{self._path}, line {line}: expected train or test in column "
            f"{printable(repr(self._header[self._columns.split]))}, got {printable(repr(cell))} "
            f"(a table without splits: {FLAG}.split=none)."
        )


def _check_classes(path: str, classes: set[str]) -> None:
    """Refuse what is no label, and two spellings of one class."""
    if not classes:
        raise UserError(f"{path} has no row with a label: look at {FLAG}.label.")
    if len(classes) > _CLASSES:
        raise UserError(
            f"{path} has {len(classes):,} classes, and at most {_CLASSES:,} are expected: is "
            f"{FLAG}.label the right column?"
        )
    for name in sorted(classes):
        _check_folder(path, "class", name, f"another name by {FLAG}.names=OLD:NEW")
    for alike in spellings(classes):
        raise UserError(
            f"{path}: the classes {' and '.join(shown(alike))} differ only in their spelling: say "
            f"which is meant by {FLAG}.names='{alike[0]}:{alike[1]}'."
        )


def _check_sites(path: str, sites: set[str]) -> None:
    for name in sorted(sites):
        _check_folder(path, "site", name, "another name in the table")
    for alike in spellings(sites):
        raise UserError(
            f"{path}: the sites {' and '.join(shown(alike))} differ only in their spelling: write "
            "each site in one way."
        )


def _check_folder(path: str, what: str, name: str, remedy: str) -> None:
    """Refuse a name that no folder can have."""
    long = len(name.encode("utf-8", "surrogateescape")) > _LONGEST
    if long or name.startswith(".") or "/" in name or "\\" in name:
        raise UserError(
            f"{path}: the {what} {printable(repr(name))} could not be the name of a folder (at "
            f"most {_LONGEST} bytes, no slash, no dot at the beginning): give it {remedy}."
        )
