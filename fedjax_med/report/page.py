"""The page: one HTML file without scripts, that nothing else has to be loaded for."""

import stat
from pathlib import Path

from fedjax_med.files import replacing
from fedjax_med.report import inputs
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, tag
from fedjax_med.report.sections import ORDER
from fedjax_med.report.style import stylesheet

NAME = "report.html"
_WRONG = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
# Of a browser: nothing is loaded and no script runs, whatever the page holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write(workdir: Path, out: Path | None = None) -> Path:
    """Write the report of the run or the comparison in `workdir`, and return its file.

    The same files of a workdir give the same bytes, whenever and wherever they are read.

    Args:
        workdir: of the run.
        out: the file; None: ``report.html`` in the workdir.

    Raises:
        UserError: There is no run, a file of it is damaged, or the report cannot be written.
    """
    file = workdir / NAME if out is None else out
    text = render(inputs.read(workdir))
    with replacing(file, _mode(workdir)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return file


def _mode(workdir: Path) -> int:
    """Return the permissions of what the report is made of: it says as much."""
    known = [workdir / name for name in ("experiment.json", inputs.COMPARISON)]
    return stat.S_IMODE(next(one.stat().st_mode for one in known if one.exists())) & 0o666


def render(run: Run) -> str:
    """Return the page about `run`.

    Raises:
        UserError: A file of the run is damaged.
    """
    built = {name: found for name in ORDER if (found := _build(name, run))}
    title = f"Report: {_what(run)}"
    links = [tag("li", tag("a", one.title, href=f"#{name}")) for name, one in built.items()]
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Markup(stylesheet())),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title)),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *(_section(name, one) for name, one in built.items())),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _what(run: Run) -> str:
    name = (run.experiment.name if run.experiment else "") or "experiment"
    return f"comparison of {name}" if run.comparison else name


def _build(name: str, run: Run) -> Section | None:
    """Build the section `name`; the values of a file may be anything."""
    try:
        return ORDER[name].build(run)
    except _WRONG as error:
        raise inputs.damaged(run.workdir / ORDER[name].READS) from error


def _section(name: str, of: Section) -> Markup:
    heading = tag("h2", of.title, id=f"{name}-heading")
    text = joined(heading, of.body)
    return joined(Markup("\n"), tag("section", text, id=name, aria_labelledby=f"{name}-heading"))
