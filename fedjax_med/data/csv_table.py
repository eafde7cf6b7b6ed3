"""Tables in files: CSV as people and spreadsheets write it."""

import codecs
import contextlib
import csv
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fedjax_med.data.spelling import folded
from fedjax_med.errors import UserError, check_name, printable
from fedjax_med.files import read_regular, unreadable

LIMIT = 2**30  # bytes of a table: ten million lines of 100 bytes
# What programs write where a value is missing, in lower case.
MISSING = {"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null"}
_DELIMITERS = ",;\t|"
_COLUMNS, _LINES = 1_000, 5_000_000  # of a `sheet`, at most
_TITLES = 20  # lines, at most, among which the headings are looked for

Rows = Iterator[tuple[int, list[str]]]  # with the numbers of their lines


class Row(NamedTuple):
    """One line of a table."""

    line: int
    cells: tuple[str, ...]


def content(path: str, advice: str, limit: int = LIMIT) -> bytes:
    """Read the file of a table.

    Args:
        path: of the file.
        advice: a sentence, what to do if it cannot be read.
        limit: the most bytes that it may have.

    Raises:
        UserError: It cannot be read, or is larger than a table may be.
    """
    try:
        return read_regular(Path(path), limit)
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
        text = _with_line_feeds(data)
        wanted = {folded(name) for name, _ in headings}

        def is_header(row: list[str]) -> bool:
            return wanted <= set(map(folded, row))

        rows = _below_titles(_rows(text, _delimiter(text, is_header)), is_header)
        _, header = next(rows, (0, []))
        places = [column(header, name, flag, path) for name, flag in headings]
        return [
            Row(line, tuple(row[at].strip() if at < len(row) else "" for at in places))
            for line, row in rows
        ]
    except (ValueError, csv.Error) as error:
        raise unreadable(Path(path), error, advice) from error


def sheet(
    data: bytes, path: str, is_header: Callable[[list[str]], bool], advice: str
) -> tuple[list[str], Callable[[], Rows]]:
    """Find the headings of a CSV of which it is not yet known which columns are needed.

    Args:
        data: of the file.
        path: of the file, for the messages.
        is_header: tells whether a line may be that of the headings; else it is the first line.
        advice: a sentence, what to do if it is no table.

    Returns:
        The headings, and a function that begins to read the lines below them, from the first. It
        raises a `UserError` where a quotation is not closed, a line has more cells than there are
        headings, or there are too many lines.

    Raises:
        UserError: It is no CSV.
    """
    try:
        text = _with_line_feeds(data)
        if "\0" in text:
            raise ValueError("it has NUL characters, so it is no text")
        delimiter = _delimiter(text, is_header)
        _, header = next(_below_titles(_rows(text, delimiter), is_header), (0, []))
    except (ValueError, csv.Error) as error:
        raise unreadable(Path(path), error, advice) from error
    if not 0 < len(header) <= _COLUMNS:
        fault = ValueError(f"expected from 1 to {_COLUMNS:,} columns, got {len(header):,}")
        raise unreadable(Path(path), fault, advice)

    def below() -> Rows:
        try:
            rows = _below_titles(_rows(text, delimiter), is_header)
            next(rows, None)
            yield from _checked(rows, len(header), text.count('"') % 2 == 0)
        except (ValueError, csv.Error) as error:
            raise unreadable(Path(path), error, advice) from error

    return [name.strip() for name in header], below


def _checked(rows: Rows, count: int, paired: bool) -> Rows:
    """Yield the lines with `count` cells each.

    Args:
        rows: as they were written.
        count: the number of headings.
        paired: whether the number of quotation marks is even.

    Raises:
        ValueError: A line has further cells, the last one is in a quotation that is not closed and
            goes over several lines, or there are too many lines.
    """
    before, last = 0, list[str]()
    for number, (line, row) in enumerate(rows):
        if number >= _LINES:
            raise ValueError(f"it has more than {_LINES:,} lines")
        if last:
            yield before, _cells(last, count, before)
        before, last = line, row
    if not paired and any("\n" in cell for cell in last):
        start = before - sum(cell.count("\n") for cell in last)
        raise ValueError(f"a quotation that begins in line {start} or so is not closed")
    if last:
        yield before, _cells(last, count, before)


def _cells(row: list[str], count: int, line: int) -> list[str]:
    """Return the `count` cells of a line, which may lack the last or have further empty ones.

    Raises:
        ValueError: It has further cells.
    """
    cells = [cell.strip() for cell in row]
    if any(cells[count:]):
        raise ValueError(
            f"line {line} has {len(cells)} cells, and there are {count} headings (put a cell that "
            "has the delimiter in it in quotes)"
        )
    return cells[:count] + [""] * (count - len(cells))


def _with_line_feeds(data: bytes) -> str:
    """Decode a table, with one kind of line ends."""
    return _text(data).replace("\r\n", "\n").replace("\r", "\n")  # the last one is of old Macs


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


def _delimiter(text: str, is_header: Callable[[list[str]], bool]) -> str:
    """Return the delimiter by which a first line has the headings, else the most frequent."""
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    if first.lower().startswith("sep="):  # Excel's hint to itself
        return first[4:5].strip("\r\n") or ","
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):
            rows = itertools.islice(_rows(text, delimiter), _TITLES)
            if any(is_header(row) for _, row in rows):
                return delimiter
    return max(_DELIMITERS, key=first.count)


def _below_titles(rows: Rows, is_header: Callable[[list[str]], bool]) -> Rows:
    """Return `rows` from the headings on; all of them if no first line has the headings."""
    first = list(itertools.islice(rows, _TITLES))
    place = next((at for at, (_, row) in enumerate(first) if is_header(row)), 0)
    return itertools.chain(first[place:], rows)


def _rows(text: str, delimiter: str) -> Rows:
    """Yield the lines with their numbers; skip empty ones, as spreadsheets leave at the end."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for row in reader:
        hint = reader.line_num == 1 and row and row[0].lower().startswith("sep=")
        if any(cell.strip() for cell in row) and not hint:
            yield reader.line_num, row


def column(header: list[str], name: str, flag: str, path: str) -> int:
    """Find the column `name` in `header`; letter case and spaces do not matter if none is exact.

    Raises:
        UserError: There is none, or several; the message has `flag`, which names another.
    """
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
