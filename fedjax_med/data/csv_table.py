"""Tables in files: CSV as people and spreadsheets write it."""

import codecs
import contextlib
import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_med.data.spelling import folded
from fedjax_med.errors import UserError, check_name, printable
from fedjax_med.files import read_regular, unreadable

LIMIT = 2**30  # bytes of a table: ten million lines of 100 bytes
# What programs write where a value is missing, in lower case.
MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null"}
_DELIMITERS = ",;\t|"
_TITLES = 20  # lines, at most, among which the headings are looked for

Rows = Iterator[tuple[int, list[str]]]  # with the numbers of their lines


class Row(NamedTuple):
    """One line of a table."""

    line: int
    cells: tuple[str, ...]


def content(path: str, advice: str) -> bytes:
    """Read the file of a table.

    Args:
        path: of the file.
        advice: a sentence, what to do if it cannot be read.

    Raises:
        UserError: It cannot be read, or is larger than a table may be.
    """
    try:
        return read_regular(Path(path), LIMIT)
    except (OSError, ValueError) as error:
        raise unreadable(Path(path), error, advice) from error


def columns(data: bytes, path: str, headings: Sequence[tuple[str, str]], advice: str) -> list[Row]:
    """Read some columns of a CSV, with any usual delimiter, in UTF-8 or UTF-16.

    Args:
        data: of the file.
        path: of the file, for the messages.
        headings: of the columns, each with the flag that names another, or ""; letter case and
            spaces do not matter.
        advice: a sentence, what to do if it is no table.

    Returns:
        The lines but the headings, with a cell for each of `headings`.

    Raises:
        UserError: It is no CSV, or lacks a column.
    """
    try:
        text = _text(data).replace("\r\n", "\n").replace("\r", "\n")  # the last one is of old Macs
        names = [name for name, _ in headings]
        rows = _below_titles(_rows(text, _delimiter(text, names)), names)
        _, header = next(rows, (0, []))
        places = [_column(header, name, flag, path) for name, flag in headings]
        return [
            Row(line, tuple(row[at].strip() if at < len(row) else "" for at in places))
            for line, row in rows
        ]
    except (ValueError, csv.Error) as error:
        raise unreadable(Path(path), error, advice) from error


def _text(data: bytes) -> str:
    """Decode a table: UTF-8, or UTF-16 as spreadsheets write Unicode text.

    Raises:
        ValueError: A line is in another encoding.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16")
    elif 0 in data[:2]:  # without a byte order mark: one byte of a heading's first letter is 0
        text = data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be")
    else:
        text = _of_utf8(data)
    return text.lstrip("\ufeff")  # some programs write two byte order marks


def _of_utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = len((data[: error.start] + b".").splitlines())
        line = data.splitlines()[number - 1].decode("cp1252", "replace")
        raise ValueError(
            f"expected the encoding utf-8, and line {number} has another (in Windows-1252 it is "
            f"{printable(repr(line))}): save the table as CSV UTF-8"
        ) from error


def _delimiter(text: str, headings: Sequence[str]) -> str:
    """Return the delimiter by which a first line has all headings, else the most frequent."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    if first.lower().startswith("sep="):  # Excel's hint to itself
        return first[4:5].strip("\r\n") or ","
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):
            rows = itertools.islice(_rows(text, delimiter), _TITLES)
            if any(_is_header(row, headings) for _, row in rows):
                return delimiter
    return max(_DELIMITERS, key=first.count)


def _is_header(row: list[str], headings: Sequence[str]) -> bool:
    return set(map(folded, headings)) <= set(map(folded, row))


def _below_titles(rows: Rows, headings: Sequence[str]) -> Rows:
    """Return `rows` from the headings on; all of them if no first line has all headings."""
    first = list(itertools.islice(rows, _TITLES))
    place = next((at for at, (_, row) in enumerate(first) if _is_header(row, headings)), 0)
    return itertools.chain(first[place:], rows)


def _rows(text: str, delimiter: str) -> Rows:
    """Yield the lines with their numbers; skip empty ones, as spreadsheets leave at the end."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for row in reader:
        hint = reader.line_num == 1 and row and row[0].lower().startswith("sep=")
        if any(cell.strip() for cell in row) and not hint:
            yield reader.line_num, row


def _column(header: list[str], name: str, flag: str, path: str) -> int:
    names = [cell.strip() for cell in header]
    found = [at for at, one in enumerate(names) if one == name]
    found = found or [at for at, one in enumerate(names) if folded(one) == folded(name)]
    if len(found) > 1:
        raise UserError(f"{path} has the column {name!r} {len(found)} times: leave one of them.")
    if not found:
        hint = f" (set {flag} to the right one)" if flag else ""
        where = f"the columns of {path}{hint}"
        check_name(name, filter(None, names), where)
    return found[0]
