"""Line charts as SVG, with a title and a description, and without scripts."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjax_med.report.markup import Markup, joined, tag
from fedjax_med.report.style import LINES

_WIDTH, _HEIGHT = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 346, 12, 214
_MOST = 400  # points of a line; of more, every few
_MARKED = 20  # points of a line up to which each has a mark
_LARGEST = 1e15  # of a value that is drawn
Point = tuple[float, float]


class Line(NamedTuple):
    """A line of a chart, or with ``dots`` only its points.

    name: for the legend.
    points: from left to right; where one is not finite or outside of the axes the line is broken.
    style: which of the colours and dashes.
    dots: whether there are points alone.
    """

    name: str
    points: Sequence[Point]
    style: int = 0
    dots: bool = False


class Axis(NamedTuple):
    """An axis of a chart, from ``low`` to ``high``."""

    label: str
    low: float = 0.0
    high: float = 1.0

    def share(self, value: float) -> float:
        """Return where between the ends `value` lies, 0 to 1."""
        return (value - self.low) / ((self.high - self.low) or 1.0)


def around(label: str, values: Sequence[float], low: float | None = None) -> Axis:
    """Return an axis that spans the finite `values`, and begins at `low` if it is given."""
    known = [value for value in values if abs(value) < _LARGEST]
    start = min(known, default=0.0) if low is None else low
    end = max(known, default=1.0)
    far = end - start > 1e-9 * max(1.0, abs(start))
    return Axis(label, start, end if far else start + 1.0)


def ticks(axis: Axis) -> list[float]:
    """List about five round values between the ends of `axis`."""
    rough = (axis.high - axis.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough * 0.999)
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def chart(name: str, title: str, lines: Sequence[Line], x: Axis, y: Axis) -> Markup:
    """Draw `lines`; the description gives their first and last values.

    Args:
        name: unique on the page.
        title: what the chart shows.
        lines: at most as many as there are styles.
        x: the horizontal axis.
        y: the vertical one.
    """
    drawn = [_line(line, x, y) for line in lines]
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", f"{y.label} by {x.label}. ", *map(_said, lines), id=f"{name}-desc"),
        *_grid(x, y),
        *drawn,
        *_legend(lines),
        role="img",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT + 16 * ((len(lines) + 1) // 2)}",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def figure(drawing: Markup, *caption: object) -> Markup:
    """Put a caption below a drawing."""
    return tag("figure", drawing, tag("figcaption", *caption))


def _said(line: Line) -> str:
    known = [point for point in line.points if _finite(point)]
    if not known:
        return f"{line.name}: no values. "
    (first, start), (last, end) = known[0], known[-1]
    if len(known) == 1:
        return f"{line.name}: {start:.3g} at {first:.3g}. "
    return f"{line.name}: from {start:.3g} at {first:.3g} to {end:.3g} at {last:.3g}. "


def _finite(point: Point) -> bool:
    return all(abs(value) < _LARGEST for value in point)


def _place(point: Point, x: Axis, y: Axis) -> tuple[str, str]:
    across = _LEFT + x.share(point[0]) * (_RIGHT - _LEFT)
    down = _BOTTOM - y.share(point[1]) * (_BOTTOM - _TOP)
    return f"{across:.1f}", f"{down:.1f}"


def _grid(x: Axis, y: Axis) -> list[Markup]:
    """Draw the frame, the ticks and the names of the axes."""
    parts = []
    for value in ticks(y):
        _, at = _place((x.low, value), x, y)
        parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=at, y2=at, class_="grid"))
        label = f"{value:.4g}".replace("-", "\u2212")
        parts.append(tag("text", label, x=_LEFT - 6, y=float(at) + 4, text_anchor="end"))
    for value in ticks(x):
        at, _ = _place((value, y.low), x, y)
        parts.append(tag("line", x1=at, x2=at, y1=_BOTTOM, y2=_BOTTOM + 4, class_="frame"))
        parts.append(tag("text", f"{value:.4g}", x=at, y=_BOTTOM + 17, text_anchor="middle"))
    middle, centre = (_LEFT + _RIGHT) // 2, (_TOP + _BOTTOM) // 2
    width, height = _RIGHT - _LEFT, _BOTTOM - _TOP
    return [
        *parts,
        tag("rect", x=_LEFT, y=_TOP, width=width, height=height, class_="frame"),
        tag("text", x.label, x=middle, y=_BOTTOM + 34, text_anchor="middle"),
        tag(
            "text",
            y.label,
            x=14,
            y=centre,
            text_anchor="middle",
            transform=f"rotate(-90 14 {centre})",
        ),
    ]


def _line(line: Line, x: Axis, y: Axis) -> Markup:
    style = line.style % len(LINES)
    points = line.points
    if len(points) > _MOST:
        points = [points[i] for i in np.linspace(0, len(points) - 1, _MOST).astype(int)]
    parts, runs = [], _unbroken(points, x, y)
    for run in runs if not line.dots else ():
        way = Markup(" ".join(",".join(_place(point, x, y)) for point in run))
        parts.append(tag("polyline", points=way, class_=f"line{style}"))
    if line.dots or len(points) == 1 or 2 < len(points) <= _MARKED:  # two: a straight line
        for across, down in (_place(point, x, y) for run in runs for point in run):
            size = 4.5 if line.dots else 2.5
            parts.append(tag("circle", cx=across, cy=down, r=size, class_=f"mark{style}"))
    return joined(*parts)


def _unbroken(points: Sequence[Point], x: Axis, y: Axis) -> list[list[Point]]:
    """Divide `points` where one is not finite or lies outside of the axes."""
    runs: list[list[Point]] = [[]]
    for point in points:
        inside = _finite(point) and all(
            -1e-9 <= axis.share(value) <= 1 + 1e-9
            for axis, value in zip((x, y), point, strict=True)
        )
        if inside:
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _legend(lines: Sequence[Line]) -> list[Markup]:
    parts = []
    for number, line in enumerate(lines):
        left, down = (_LEFT, 205)[number % 2], _HEIGHT + 8 + 16 * (number // 2)
        style = line.style % len(LINES)
        if line.dots:
            parts.append(tag("circle", cx=left + 11, cy=down - 4, r=4.5, class_=f"mark{style}"))
        else:
            ends = {"x1": left, "x2": left + 22, "y1": down - 4, "y2": down - 4}
            parts.append(tag("line", **ends, class_=f"line{style}"))
        parts.append(tag("text", line.name, x=left + 28, y=down))
    return parts
