"""Reads a table of corrections: images, their right labels and the basis of each."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from fedjax_med.data import csv_table
from fedjax_med.errors import UserError, check_name, printable

FLAG = "--config.corrections"
SHIPPED = {file.stem: file for file in sorted(Path(__file__).parent.glob("*.csv"))}

COLUMNS = ("image", "label", "basis")
_ADVICE = f"Give a CSV with the columns {', '.join(COLUMNS)} by {FLAG}."


class Row(NamedTuple):
    """One correction."""

    line: int
    image: str  # as it is written
    label: str
    basis: str  # "<kind>" or "<kind>: <what it rests on>"


class Corrections(NamedTuple):
    """A table of corrections."""

    name: str  # of a shipped table, or the path
    sha256: str  # of the file
    rows: tuple[Row, ...]


def kind(basis: str) -> str:
    """Return the kind of a basis, such as ``official``."""
    return basis.partition(":")[0].strip()


def is_shipped(name: str) -> bool:
    """Return whether `name` is that of a table of this package, and no path."""
    return name in SHIPPED


def needed() -> str:
    """Say how to name a table."""
    shipped = ", ".join(f"{FLAG}={name}" for name in SHIPPED)
    return (
        f"{FLAG}=FILE, a CSV with the columns {', '.join(COLUMNS)}, or a table of this package "
        f"({shipped})"
    )


def read(name: str) -> Corrections:
    """Read a table of corrections.

    Args:
        name: of a shipped table, or the path of a CSV.

    Raises:
        UserError: There is none, it lacks a column, a row lacks its image, its label or its basis,
            or it has no rows.
    """
    if is_shipped(name):
        return _read(name, str(SHIPPED[name]))
    path = Path(name)
    if not path.suffix and path.name == name and not path.exists():
        check_name(name, SHIPPED, f"the tables of corrections (or give {needed()})")
    return _read(name, name)


def _read(name: str, path: str) -> Corrections:
    data = csv_table.content(path, _ADVICE)
    lines = csv_table.columns(data, path, [(column, "") for column in COLUMNS], _ADVICE)
    rows = tuple(Row(line, *cells) for line, cells in lines)
    for row in rows:
        for column, cell in zip(COLUMNS, row[1:], strict=True):
            if not cell:
                of = f" of {printable(repr(row.image))}" if row.image else ""
                raise UserError(f"{path}, line {row.line}: the {column}{of} is missing. {_ADVICE}")
    if not rows:
        raise UserError(f"{path} has no rows. {_ADVICE}")
    return Corrections(name, hashlib.sha256(data).hexdigest(), rows)
