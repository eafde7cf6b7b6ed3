"""Losses and scores by round."""

from collections.abc import Callable

from fedjax_med.evaluation.cells import number
from fedjax_med.report.charts import Line, Point, around, chart, figure
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Section, joined, table, tag
from fedjax_med.run.metrics_file import Record

READS = "metrics.jsonl"
_ROWS = 50  # of the table; of more rounds, every few
_VALUES: dict[str, Callable[[Record], float | None]] = {
    "loss in training": lambda one: one["train_loss"],
    "validation loss": lambda one: one["validation"].get("loss"),
    "validation accuracy": lambda one: one["validation"].get("accuracy"),
    "balanced accuracy": lambda one: one["validation"].get("balanced_accuracy"),
}


def build(run: Run) -> Section | None:
    """Draw the curves; None without records."""
    if not run.records:
        return None
    lines = {name: _points(run, value) for name, value in _VALUES.items()}
    known = {name: points for name, points in lines.items() if points}
    rounds = around("round", [one["round"] for one in run.records])
    charts = []
    for name, title, wanted in (
        ("loss", "Losses by round", ("loss in training", "validation loss")),
        ("score", "Validation scores by round", ("validation accuracy", "balanced accuracy")),
    ):
        drawn = [Line(one, known[one], style) for style, one in enumerate(wanted) if one in known]
        values = [value for line in drawn for _, value in line.points]
        y = around(name, values if name == "loss" else [1.0], 0.0)
        if drawn:
            charts.append(figure(chart(f"curves-{name}", title, drawn, rounds, y), f"{title}."))
    return Section("Learning curves", joined(tag("div", *charts, class_="charts"), _values(run)))


def _points(run: Run, value: Callable[[Record], float | None]) -> list[Point]:
    each = [(float(one["round"]), value(one)) for one in run.records]
    return [(number, float(one)) for number, one in each if one is not None]


def _values(run: Run) -> object:
    """Return the values as a table that is closed at first."""
    step = -(-len(run.records) // _ROWS)
    shown = run.records[::-step][::-1]
    rows = [(one["round"], *(number(value(one)) for value in _VALUES.values())) for one in shown]
    whole = table("Values by round", ("round", *_VALUES), rows)
    return tag("details", tag("summary", "The values as a table"), whole)
