"""A table of images and their sites, as people and spreadsheets write it."""

import codecs
import contextlib
import csv
import io
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fedjax_med.data.partitions._dealing import OPTIONS
from fedjax_med.data.spelling import folded, shown, spellings
from fedjax_med.errors import UserError, check_name, printable, some
from fedjax_med.files import open_regular, read_regular, unreadable

_LIMIT = 2**30  # bytes of the table: ten million lines of 100 bytes
_ADVICE = f"Give a CSV of images and their sites by {OPTIONS}.path."
_DELIMITERS = ",;\t|"
_TITLES = 20  # lines, at most, among which the headings are looked for

Rows = Iterator[tuple[int, list[str]]]  # with the numbers of their lines


class Row(NamedTuple):
    """One line of any table."""

    line: int
    cells: tuple[str, ...]


class Entry(NamedTuple):
    """One line of the table."""

    line: int
    image: str  # as it is written
    site: str


def read(
    path: str, column: str, image: str, options: str = OPTIONS, *, every: bool = True
) -> list[Entry]:
    """Read the CSV at `path`, with any usual delimiter, in UTF-8 or UTF-16.

    Args:
        path: of the file.
        column: the heading of the sites; letter case and spaces do not matter.
        image: the heading of the images.
        options: the flags that name the file and the headings, for the messages.
        every: whether each line must have its image and its site, and a site one spelling.

    Raises:
        UserError: It cannot be read, lacks a column, or a line lacks its image or its site; or two
            sites differ only in their spelling.
    """
    advice = _ADVICE if every else f"Give a CSV of images and their {column} by {options}.path."
    if every:
        check_path(path)
    wanted = [(image, f"{options}.image"), (column, f"{options}.column")]
    rows = columns(content(path, advice), path, wanted, advice)
    entries = [Entry(row.line, *row.cells) for row in rows]
    if not every:
        return entries
    for entry in entries:
        if not (entry.image and entry.site):
            fault = f"the image {printable(repr(entry.image))} lacks its name or its site"
            raise UserError(f"{path}, line {entry.line}: {fault}.")
    for sites in spellings(entry.site for entry in entries):
        raise UserError(
            f"{path}: the sites {' and '.join(shown(sites))} differ only in their spelling: write "
            "each site in one way."
        )
    return entries


def check_path(path: str) -> None:
    """Refuse a table that is not given, or no file that can be opened.

    Raises:
        UserError: The message says how to give one.
    """
    if not path:
        raise UserError(f"by_column needs a CSV of images and their sites: set {OPTIONS}.path.")
    try:
        with open_regular(Path(path), _LIMIT):
            pass
    except OSError as error:
        raise unreadable(Path(path), error, _ADVICE) from error


def content(path: str, advice: str) -> bytes:
    """Read the file of a table.

    Args:
        path: of the file.
        advice: a sentence, what to do if it cannot be read.

    Raises:
        UserError: It cannot be read, or is larger than a table may be.
    """
    try:
        return read_regular(Path(path), _LIMIT)
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


def by_image(path: str, entries: list[Entry], classes: set[str]) -> dict[str, Entry]:
    """Index the entries by ``<class>/<file>`` or ``<file>``, whatever folders are written before.

    Lines of images in a folder ``test`` are left out.

    Args:
        path: of the table, for the messages.
        entries: of the table.
        classes: the names of the class folders.

    Raises:
        UserError: An image is listed twice.
    """
    known, found = set(map(plain, classes)), dict[str, Entry]()
    for entry in entries:
        *folders, file = PurePosixPath(entry.image.replace("\\", "/")).parts
        if folders and plain(folders[-1]) not in known:  # "<class> / <file>"
            *folders, file = (part.strip() for part in (*folders, file))
        in_class = bool(folders) and plain(folders[-1]) in known
        above = folders[:-1] if in_class else folders
        if above and plain(above[-1]) == "test":
            continue
        key = f"{folders[-1]}/{file}" if in_class else file
        if key in found and found[key][1:] == entry[1:]:
            continue  # the same line again
        if key in found:
            raise UserError(
                f"{path}, line {entry.line}: the image {printable(repr(key))} is listed twice "
                "(where two classes have it, write '<class>/<file>')."
            )
        found[key] = entry
    return found


def plain(name: str) -> str:
    """Return a file name without letter case, in Unicode's composed form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def candidates(names: list[str], listed: dict[str, Entry]) -> list[list[str]]:
    """List the keys in `listed` that may stand for each of `names`, ``<class folder>/<file>``.

    The suffix may be missing and the letter case may differ; an exact match comes first.
    """
    loose: dict[str, list[str]] = {}
    for key in listed:
        loose.setdefault(plain(key), []).append(key)
    found: list[list[str]] = []
    for name in names:
        file = PurePosixPath(name)
        forms = list(dict.fromkeys((name, str(file.with_suffix("")), file.name, file.stem)))
        keys = [form for form in forms if form in listed]
        found.append(keys or [key for form in forms for key in loose.get(plain(form), [])])
    return found


def match(path: str, names: list[str], listed: dict[str, Entry]) -> list[str]:
    """Find the key in `listed` for each of `names`.

    Raises:
        UserError: An image is on no line, or on several.
    """
    found = candidates(names, listed)
    faulty = [position for position, keys in enumerate(found) if len(keys) != 1]
    if faulty:
        keys = found[faulty[0]]
        where = f"as {keys[0]!r} and as {keys[1]!r}" if keys else "nowhere"
        more = f" ({len(faulty) - 1} more images are like this)" if len(faulty) > 1 else ""
        hint = "" if keys else f"; it lists {some(list(listed)[:3])}"
        raise UserError(
            f"{path}: expected the image {names[faulty[0]]!r} on one line, found it "
            f"{where}{more}{hint}."
        )
    return [one[0] for one in found]
