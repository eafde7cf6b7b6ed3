"""Which columns of a table of images are which: as the options say, else by their headings."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fedjax_med.data import csv_table
from fedjax_med.data.spelling import folded
from fedjax_med.errors import UserError, printable, some

FLAG = "--config.dataset.options"
ONE_HOT = "one-hot"  # the label is the heading of the column that has the 1
NONE = "none"  # as an option: the table has no such column

# The usual headings, as `folded` returns them.
_IMAGE = {
    *("image", "image id", "image name", "image path", "img", "img id", "isic id"),
    *("file", "file name", "filename", "path"),
}
_LABEL = {
    *("label", "labels", "dx", "diagnosis", "diagnostic"),
    *("class", "class name", "target"),
}
_SPLIT = {"split", "subset"}
_SITE = {"site", "hospital", "center", "centre", "client"}
_GROUP = {"patient", "patient id", "lesion", "lesion id"}
_LEAST_BITS = 2  # columns of a one-hot table

Below = Callable[[], csv_table.Rows]


class Headings(NamedTuple):
    """The headings that the options give; an empty one is found, if it is needed."""

    image: str = ""
    label: str = ""  # or `ONE_HOT`, or several headings with "+" between them
    split: str = ""
    site: str = ""
    group: str = ""


class Columns(NamedTuple):
    """The places of the columns in each line; -1: there is none."""

    image: int
    label: tuple[int, ...]  # several: one of them has a 1
    split: int
    site: int
    group: int


def is_header(wanted: Headings) -> Callable[[list[str]], bool]:
    """Return the function that tells whether a line has the heading of the images."""
    usual = {folded(wanted.image)} if wanted.image else _IMAGE
    return lambda row: not usual.isdisjoint(map(folded, row))


def find(path: str, header: list[str], wanted: Headings, below: Below) -> Columns:
    """Find the columns.

    Args:
        path: of the table, for the messages.
        header: all headings.
        wanted: those that the options give.
        below: begins to read the lines below the headings.

    Raises:
        UserError: A column is missing, or several may be it.
    """

    def given(role: str, name: str) -> int:
        return csv_table.column(header, name, f"{FLAG}.{role}", path)

    image = given("image", wanted.image) if wanted.image else _usual(path, header, "image", _IMAGE)
    split = _split(header, wanted.split, given)
    others = [
        given(role, name) if folded(name) not in ("", NONE) else -1
        for role, name in (("site", wanted.site), ("group", wanted.group))
    ]
    taken = {image, split, *others}
    return Columns(image, _labels(path, header, wanted.label, below, taken), split, *others)


def told(header: list[str], columns: Columns, wanted: Headings) -> str:
    """Say which columns are used, and which may be of use."""
    label = [header[at] for at in columns.label]
    classes = some(label) if len(label) == 1 else f"one-hot in {some(label)}"
    said = [f"images by {printable(header[columns.image])}", f"classes by {classes}"]
    places = {"split": columns.split, "site": columns.site, "group": columns.group}
    said += [f"{role} by {printable(header[at])}" for role, at in places.items() if at >= 0]
    open_ = [
        f"{FLAG}.{role}={printable(name)}"
        for role, usual in (("site", _SITE), ("group", _GROUP))
        if places[role] < 0 and not getattr(wanted, role)
        for name in header
        if folded(name) in usual
    ]
    hint = f" (not used, and perhaps meant: {', '.join(open_)})" if open_ else ""
    return ", ".join(said) + hint


def bit(cell: str) -> int | None:
    """Return 0 or 1 if the cell is this number, however it is written; else None."""
    return _bit(cell) if len(cell) < 20 else None


@functools.lru_cache(maxsize=1024)
def _bit(cell: str) -> int | None:
    try:
        number = float(cell.replace(",", "."))
    except ValueError:
        return None
    return int(number) if number in (0, 1) else None


def _usual(path: str, header: list[str], role: str, usual: set[str]) -> int:
    found = [at for at, name in enumerate(header) if folded(name) in usual]
    if len(found) == 1:
        return found[0]
    several = f"may have its {role} in any of {some(repr(header[at]) for at in found)}"
    fault = several if found else f"has no column that is known to be its {role}"
    raise UserError(
        f"{path} {fault}: set {FLAG}.{role} to one of its columns, which are {some(header)}."
    )


def _split(header: list[str], name: str, given: Callable[[str, str], int]) -> int:
    """Find the column of the splits, which is used if it is there: Test must not be trained on."""
    if name:
        return -1 if folded(name) == NONE and name not in header else given("split", name)
    usual = [one for one in header if folded(one) in _SPLIT]
    return given("split", usual[0]) if usual else -1


def _labels(
    path: str, header: list[str], name: str, below: Below, taken: set[int]
) -> tuple[int, ...]:
    """Find the column of the labels, or those of a one-hot table."""
    flag = f"{FLAG}.label"
    if name and (name in header or folded(name) != folded(ONE_HOT)):
        several = name.split("+") if "+" in name and name not in header else [name]
        places = [csv_table.column(header, one.strip(), flag, path) for one in several]
        return tuple(dict.fromkeys(places))
    named = [at for at, one in enumerate(header) if folded(one) in _LABEL and at not in taken]
    if not name and named:
        shown = [one if at not in taken else "" for at, one in enumerate(header)]
        return (_usual(path, shown, "label", _LABEL),)
    found = _bits(header, below, taken)
    if len(found) < _LEAST_BITS:
        raise UserError(
            f"{path} has no column that is known to be its label, and is not one-hot (columns of "
            f"0 and 1, one for each class): set {flag} to one of its columns, which are "
            f"{some(header)}."
        )
    return tuple(found)


def _bits(header: Sequence[str], below: Below, taken: set[int]) -> list[int]:
    """Find the columns that are mostly 0 and 1; a cell that is not is refused by its line later."""
    places = [at for at in range(len(header)) if at not in taken]
    bits, filled = dict.fromkeys(places, 0), dict.fromkeys(places, 0)
    for _, cells in below():
        for at in places:
            if cells[at]:
                filled[at] += 1
                bits[at] += bit(cells[at]) is not None
    return [at for at in places if header[at] and 2 * bits[at] > filled[at]]
