"""Draws docs/layout.svg, the layers of the packages, from the table in docs/design.md.

Run: python scripts/layout.py
"""

import html
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "design.md"
OUT = ROOT / "docs" / "layout.svg"
PURE = ("core", "ops", "algorithms")  # the first packages of the rows of pure functions
_WIDTH, _LEFT, _BAND, _GAP, _BOX = 760, 64, 62, 8, 28
# The drawing brings its background along, and so reads well on a page of either colour.
_STYLE = """
svg { font-family: Helvetica, Arial, sans-serif; font-size: 13px }
.page { fill: #ffffff } .band { fill: #eef4fb; stroke: #4a7fb5 }
.pure { fill: #eef8f0; stroke: #4b9b63 } .box { fill: #ffffff; stroke: #8a8a8a }
.name { fill: #1f1f1f; font-weight: bold; text-anchor: middle } .says { fill: #444444 }
.line { stroke: #555555; stroke-width: 1.6 } .head { fill: #555555 }
@media (prefers-color-scheme: dark) {
.page { fill: #1e2129 } .band { fill: #22303f; stroke: #6fa3d8 }
.pure { fill: #203527; stroke: #6fbf88 } .box { fill: #15181e; stroke: #8a8f99 }
.name { fill: #f2f2f2 } .says { fill: #c9ccd3 } .line { stroke: #b4b8c0 } .head { fill: #b4b8c0 }
}
"""


class Row(NamedTuple):
    """A row of the table: packages that do not import each other, and what they are for."""

    packages: tuple[str, ...]
    says: str


def rows(page: str) -> list[Row]:
    """Read the table, whose second column begins where that of its first line does."""
    block = page.partition("## Packages")[2].split("```")[1].strip("\n").splitlines()
    column = len(block[0]) - len(block[0].partition("  ")[2].lstrip())
    joined: list[list[str]] = []
    for line in block:
        if not line.startswith(" "):
            joined.append(["", ""])
        joined[-1][0] += line[:column].strip() + " "
        joined[-1][1] += line[column:].strip() + " "
    return [
        Row(tuple(name.strip() for name in names.split(",")), says.strip())
        for names, says in joined
    ]


def draw(table: list[Row]) -> str:
    """Draw the rows as bands, the top one first."""
    height = len(table) * (_BAND + _GAP) + 2 * _GAP + 24
    alt = "; ".join(f"{', '.join(row.packages)}: {row.says}" for row in table)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-labelledby="title desc">',
        '<title id="title">Packages, each of which imports only from the rows below</title>',
        f'<desc id="desc">From top to bottom: {html.escape(alt)}.</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{_WIDTH}" height="{height}"/>',
        *_arrow(len(table) * (_BAND + _GAP)),
    ]
    for number, row in enumerate(table):
        parts += _band(row, _GAP + number * (_BAND + _GAP))
    legend = "Green: pure functions in JAX, without input or output."
    parts.append(f'<text class="head" x="{_LEFT}" y="{height - 14}">{legend}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _arrow(length: int) -> list[str]:
    """Draw the arrow beside the bands, in whose direction packages import."""
    middle = length // 2
    return [
        f'<line class="line" x1="44" y1="{2 * _GAP}" x2="44" y2="{length - _GAP}"/>',
        f'<path class="line" fill="none" d="M38 {length - _GAP - 9} l6 9 l6 -9"/>',
        f'<text class="head" text-anchor="middle" transform="rotate(-90 26 {middle})" x="26" '
        f'y="{middle}">imports</text>',
    ]


def _band(row: Row, top: int) -> list[str]:
    """Draw one row: what it is for, and a box for each package."""
    kind = "pure" if row.packages[0] in PURE else "band"
    parts = [
        f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - 12}" '
        f'height="{_BAND}" rx="6"/>',
        f'<text class="says" x="{_LEFT + 12}" y="{top + 18}">{html.escape(row.says)}</text>',
    ]
    left = _LEFT + 12
    for name in row.packages:
        width = 8 * len(name) + 16
        parts += [
            f'<rect class="box" x="{left}" y="{top + 26}" width="{width}" height="{_BOX}" rx="4"/>',
            f'<text class="name" x="{left + width // 2}" y="{top + 45}">{name}</text>',
        ]
        left += width + 8
    return parts


if __name__ == "__main__":
    OUT.write_text(draw(rows(PAGE.read_text())))
    print(f"Written: {OUT}")
