"""Decision curves: the net benefit of acting on a class's probability."""

import math

import numpy as np

from fedjax_med.evaluation import curves
from fedjax_med.evaluation.cells import short
from fedjax_med.report.charts import Axis, Line, Point, chart, figure
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, tag
from fedjax_med.report.sections._classes import Drawn, drawn, remark

READS = "evaluation.json"
_THRESHOLDS = np.arange(1, 100) / 100
_TEXT = (
    "Net benefit is TP / n - FP / n * pt / (1 - pt), where everybody is treated whose probability "
    "is at least pt, and pt is chosen by how many false alarms one found case is worth. A model "
    "helps where its line is above both others: treat all, and treat none (0). It is of the share "
    "of the class among these test images, which need not be that of a clinic."
)


def build(run: Run) -> Section | None:
    """Draw a chart for each class; None without predictions."""
    if run.predicted is None:
        return None
    charts = tag("div", *map(_chart, drawn(run)), class_="charts")
    return Section("Decision curves", joined(paragraph(_TEXT), *remark(run), charts))


def _chart(one: Drawn) -> Markup:
    share = float(one.positive.mean())
    y = Axis("net benefit", -0.25 * share, 1.1 * share)
    benefit = curves.net_benefit(one.scores, one.positive, _THRESHOLDS).tolist()
    everybody = curves.treat_all(one.positive, _THRESHOLDS).tolist()
    x = Axis("threshold pt", 0.0, _end(one, share))
    lines = [
        Line("the model", _points(benefit)),
        Line("treat all", _points(everybody), 1),
        Line("treat none", [(0.0, 0.0), (x.high, 0.0)], 2),
    ]
    if one.threshold is not None and 0 < one.threshold < 1:
        value = float(curves.net_benefit(one.scores, one.positive, [one.threshold])[0])
        lines.append(Line("operating point", [(one.threshold, value)], 3, dots=True))
    title = f"Decision curve of {short(one.name)}"
    drawing = chart(f"decision-{one.number}", title, lines, x, y)
    return figure(drawing, f"{short(one.name)}: {100 * share:.1f} % of the test images.")


def _end(one: Drawn, share: float) -> float:
    """Return where the axis ends: a little after the model calls nobody any more."""
    last = max(float(one.scores.max()), 2 * share, one.threshold or 0.0)
    return min(math.ceil(10 * last + 1e-9) / 10, 1.0)


def _points(values: list[float]) -> list[Point]:
    return list(zip(_THRESHOLDS.tolist(), values, strict=True))
