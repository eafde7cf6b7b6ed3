"""The colours of the page can be told from what is behind them."""

import re

import pytest

from fedjax_med.report import style

CSS = style.stylesheet()
RULES = {
    selector.strip(): dict(
        (part.strip() for part in one.split(":", 1)) for one in body.split(";") if ":" in one
    )
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", CSS)
}
COLOUR = re.compile(r"#[0-9a-f]{6}")


def luminance(colour):
    """The relative luminance of WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrasts_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_text_stands_out_from_its_background():
    """Also where what is inside of an element has a colour of its own."""
    backgrounds = {body["background"] for body in RULES.values() if "background" in body}
    assert backgrounds == {style.PAGE, style.PANEL, *style.SHADES}
    texts = {body["color"] for body in RULES.values() if "color" in body}
    assert texts == {style.TEXT, style.MUTED, style.LINES[0]}
    for body in RULES.values():
        if "background" in body:
            assert contrast(body["color"], body["background"]) >= 4.5
        elif "color" in body:
            assert contrast(body["color"], style.PAGE) >= 4.5
    assert contrast(RULES["svg text"]["fill"], style.PAGE) >= 4.5


def test_lines_stand_out_from_the_page():
    assert all(contrast(colour, style.PAGE) >= 4.5 for colour in style.LINES)
    assert len(set(style.DASHES)) == len(style.LINES)


def test_every_colour_is_tested():
    known = {style.TEXT, style.MUTED, style.PAGE, style.PANEL, style.RULE}
    assert set(COLOUR.findall(CSS)) == known | {*style.LINES, *style.SHADES}


def test_every_share_has_a_shade():
    assert style.shade(0.0) == "shade0"
    assert style.shade(0.15) == "shade1"
    assert style.shade(1.0) == f"shade{len(style.SHADES) - 1}"


def test_the_page_is_made_for_paper_too():
    assert "@media print" in CSS
