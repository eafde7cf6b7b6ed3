"""Cells and columns of tables for people."""

from collections.abc import Sequence

from fedjax_med.errors import printable

_LONGEST_NAME = 41  # keeps the table within 100 columns


def number(value: float | None, undefined: str = "-") -> str:
    """Format a figure to three digits, or `undefined`."""
    return undefined if value is None else f"{value:.3f}"


def short(name: str, longest: int = _LONGEST_NAME) -> str:
    """Cut `name` to at most `longest` characters, and escape control characters."""
    name = printable(name, 2 * longest)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def columns(header: Sequence[str], rows: list[list[str]]) -> list[str]:
    """Format lines with the first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    first, others = widths[0], widths[1:]

    def line(cells: Sequence[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], others, strict=True)]
        return "  ".join([cells[0].ljust(first), *rest]).rstrip()

    rule = "-" * (sum(widths) + 2 * len(others))
    return [line(header), rule, *map(line, rows)]


def interval(limits: Sequence[float | None] | None) -> str:
    """Format an interval, or a dash if there is none."""
    if limits is None or None in limits:
        return "-"
    return " to ".join(number(limit) for limit in limits)
