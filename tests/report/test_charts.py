"""Charts: where points lie, where lines are broken, and what is said of them."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from fedjax_med.report import charts, markup
from fedjax_med.report.charts import Axis, Line, around, chart, ticks

X, Y = Axis("threshold"), Axis("benefit", -1.0, 1.0)


def drawn(*lines, x=X, y=Y):
    return ElementTree.fromstring(chart("one", "A chart", lines, x, y))


def points(root):
    return [
        [tuple(map(float, pair.split(","))) for pair in one.get("points").split()]
        for one in root.iter("polyline")
    ]


def test_the_ends_of_the_axes_are_the_corners_of_the_frame():
    root = drawn(Line("diagonal", [(0.0, -1.0), (1.0, 1.0)]))
    (frame,) = root.iter("rect")
    left, top, width, height = (float(frame.get(key)) for key in ("x", "y", "width", "height"))
    assert points(root) == [[(left, top + height), (left + width, top)]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, 1.5])
def test_a_line_is_broken_where_there_is_nothing_to_draw(value):
    root = drawn(Line("a", [(0.0, 0.0), (0.2, 0.5), (0.4, value), (0.6, 0.5), (0.8, 0.0)]))
    assert list(map(len, points(root))) == [2, 2]
    assert "nan" not in chart("one", "A", [Line("a", [(0.5, value)])], X, Y)


def test_long_lines_are_thinned_and_keep_their_ends():
    long = [(number / 9999, number / 9999) for number in range(10_000)]
    (way,) = points(drawn(Line("a", long)))
    assert len(way) == 400
    assert [way[0], way[-1]] == points(drawn(Line("a", [long[0], long[-1]])))[0]


def test_the_description_has_the_first_and_the_last_value():
    root = drawn(Line("loss", [(1.0, 0.5), (4.0, 0.25)]), Line("none", []))
    said = root.find("desc").text
    assert said == "benefit by threshold. loss: from 0.5 at 1 to 0.25 at 4. none: no values. "


def test_ticks_are_round():
    assert ticks(Axis("", 0.0, 1.0)) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(Axis("", 1.0, 40.0)) == [10, 20, 30, 40]
    assert ticks(Axis("", -0.03, 0.11)) == pytest.approx([0, 0.05, 0.1])


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0 + 1e-12], [math.nan], [0.0, 5e-324]])
def test_an_axis_is_never_empty(values):
    axis = around("loss", values)
    assert axis.high > axis.low
    assert ticks(axis)


def test_texts_are_escaped_once():
    assert markup.tag("b", "<a> & 'b'", class_='"') == (
        '<b class="&quot;">&lt;a&gt; &amp; &#x27;b&#x27;</b>'
    )
    assert markup.joined(markup.tag("i", "&"), "&") == "<i>&amp;</i>&amp;"
    assert charts.figure(markup.tag("svg"), "<") == (
        "<figure><svg></svg><figcaption>&lt;</figcaption></figure>"
    )
