"""Colours and stylesheet of the page: dark text on white, on the screen and on paper."""

TEXT, MUTED, PAGE, PANEL, RULE = "#1b1d23", "#474b55", "#ffffff", "#f2f4f8", "#c3c8d2"
# Lines of a chart, each also with dashes of its own, so that no colour has to be told apart.
LINES = ("#1b5e9b", "#a3341a", "#2c6b37", "#6b3f93")
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
# Shares from 0 to 1, in as many steps; the text on each of them is dark.
SHADES = (
    "#ffffff",
    "#eef5fc",
    "#e0edf9",
    "#d2e5f6",
    "#c4ddf3",
    "#b6d5f0",
    "#a8cded",
    "#9ac5ea",
    "#8cbde7",
    "#7eb5e4",
)


def shade(share: float) -> str:
    """Return the class of a cell whose share is from 0 to 1."""
    return f"shade{min(int(share * len(SHADES)), len(SHADES) - 1)}"


def stylesheet() -> str:
    """Return the page's CSS."""
    shades = [
        f".shade{number} {{ background: {colour}; color: {TEXT} }}"
        for number, colour in enumerate(SHADES)
    ]
    lines = [
        f".line{number} {{ stroke: {colour}; stroke-dasharray: {dashes}; fill: none; "
        f"stroke-width: 2 }}\n.mark{number} {{ fill: {colour} }}"
        for number, (colour, dashes) in enumerate(zip(LINES, DASHES, strict=True))
    ]
    return "\n".join([_PAGE, *shades, *lines, _PRINT])


_PAGE = f"""\
body {{ background: {PAGE}; color: {TEXT}; font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 60rem; padding: 1rem }}
h1, h2, h3 {{ line-height: 1.25 }}
h2 {{ border-top: 1px solid {RULE}; margin-top: 2.5rem; padding-top: 1rem }}
nav ul {{ columns: 16rem; padding-left: 1.2rem }}
a {{ color: {LINES[0]} }}
.notice {{ background: {PANEL}; color: {TEXT}; border-left: 4px solid {LINES[1]};
  padding: .6rem 1rem }}
.muted, caption, figcaption {{ color: {MUTED} }}
.wide {{ overflow-x: auto; margin: 1rem 0 }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
caption {{ text-align: left; padding-bottom: .3rem }}
th, td {{ border: 1px solid {RULE}; padding: .25rem .6rem; text-align: right }}
th[scope=row], thead th:first-child {{ text-align: left }}
thead th {{ background: {PANEL}; color: {TEXT} }}
.right {{ outline: 2px solid {TEXT}; outline-offset: -3px }}
figure {{ margin: 0 }}
.charts {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)) }}
svg {{ font-family: system-ui, sans-serif; font-size: 12px; height: auto; max-width: 100% }}
svg text {{ fill: {TEXT} }}
.grid {{ stroke: {RULE}; stroke-width: 1 }}
.frame {{ stroke: {MUTED}; stroke-width: 1; fill: none }}
code, pre {{ background: {PANEL}; color: {TEXT}; overflow-wrap: anywhere; white-space: pre-wrap }}
pre {{ padding: .6rem }}"""
_PRINT = """\
@media print {
body { font-size: 10pt; max-width: none; padding: 0 }
nav { display: none }
.wide { overflow: visible }
tr, figure, .notice { break-inside: avoid }
h2, h3 { break-after: avoid }
td, th, .notice { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}"""
