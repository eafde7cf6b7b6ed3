"""A table of images and their sites, as people and spreadsheets write it."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fedjax_med.data import csv_table
from fedjax_med.data.partitions._dealing import OPTIONS
from fedjax_med.data.spelling import plain, shown, spellings
from fedjax_med.errors import UserError, printable, some
from fedjax_med.files import open_regular, unreadable

_ADVICE = f"Give a CSV of images and their sites by {OPTIONS}.path."


class Entry(NamedTuple):
    """One line of the table."""

    line: int
    image: str  # as it is written
    site: str


def read(path: str, column: str, image: str) -> list[Entry]:
    """Read the CSV at `path`, with any usual delimiter, in UTF-8 or UTF-16.

    Args:
        path: of the file.
        column: the heading of the sites; letter case and spaces do not matter.
        image: the heading of the images.

    Raises:
        UserError: It cannot be read, lacks a column, or a line lacks its image or its site; or two
            sites differ only in their spelling.
    """
    check_path(path)
    wanted = [(image, f"{OPTIONS}.image"), (column, f"{OPTIONS}.column")]
    rows = csv_table.columns(csv_table.content(path, _ADVICE), path, wanted, _ADVICE)
    entries = [Entry(row.line, *row.cells) for row in rows]
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
        with open_regular(Path(path), csv_table.LIMIT):
            pass
    except OSError as error:
        raise unreadable(Path(path), error, _ADVICE) from error


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
