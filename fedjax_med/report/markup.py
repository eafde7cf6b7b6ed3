"""HTML and SVG from Python: elements, tables and sections, in which every text is escaped."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from fedjax_med.errors import printable

_LONGEST = 2_000  # characters of one text


class Markup(str):
    """A text that is markup already; every other text is escaped where it is put into markup."""

    __slots__ = ()


class Section(NamedTuple):
    """A section of the page.

    title: its heading.
    body: what follows the heading.
    """

    title: str
    body: Markup


def escaped(value: object, longest: int = _LONGEST) -> Markup:
    """Return `value` as markup: escaped and printable, cut to `longest`, unless it is some."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value), longest)))


def joined(*parts: object) -> Markup:
    """Put the `parts` one after the other, those that are no markup escaped."""
    return Markup("".join(map(escaped, parts)))


def tag(element: str, *children: object, **attributes: Any) -> Markup:
    """Build an element with its children.

    Args:
        element: its name, which is the program's own and not escaped.
        children: its content in order.
        attributes: by name; ``_`` stands for ``-``, and at the end of a name for nothing. An
            attribute that is None is left out.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{element}{given}>{joined(*children)}</{element}>")


def paragraph(*children: object) -> Markup:
    """Build a paragraph."""
    return tag("p", *children)


def table(caption: str, header: Sequence[object], rows: Sequence[Sequence[object]]) -> Markup:
    """Build a table whose first column names its rows.

    Args:
        caption: what the table shows.
        header: a cell for each column.
        rows: likewise, each.
    """
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="wide", tabindex=0, role="region", aria_label=caption)
