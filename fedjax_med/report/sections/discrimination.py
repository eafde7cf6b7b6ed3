"""ROC and precision-recall curves of each class."""

from fedjax_med.evaluation import curves
from fedjax_med.evaluation.cells import interval, number, short
from fedjax_med.report.charts import Axis, Line, Point, chart, figure
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, tag
from fedjax_med.report.sections._classes import Drawn, drawn, remark

READS = "evaluation.json"
_TEXT = (
    "Each class against all others, on test images, at every threshold on its probability. The "
    "dashed line is what chance would reach."
)
_DOTS = " A dot is the operating point, whose threshold was chosen on validation images."


def build(run: Run) -> Section | None:
    """Draw two charts for each class; None without predictions."""
    if run.predicted is None:
        return None
    text = _TEXT + _DOTS * bool(run.evaluation.get("operating"))
    pairs = [part for one in drawn(run) for part in (_roc(run, one), _precision_recall(one))]
    grid = tag("div", *pairs, class_="charts")
    return Section("ROC and precision-recall curves", joined(paragraph(text), *remark(run), grid))


def _roc(run: Run, one: Drawn) -> Markup:
    curve = curves.roc(one.scores, one.positive)
    lines = [Line("ROC curve", _points(curve)), Line("chance", [(0.0, 0.0), (1.0, 1.0)], 1)]
    row = one.operating
    if row and row["sensitivity"] is not None and row["specificity"] is not None:
        at = 1 - float(row["specificity"]), float(row["sensitivity"])
        lines.append(Line("operating point", [at], 2, dots=True))
    name = f"roc-{one.number}"
    x, y = Axis("1 - specificity"), Axis("sensitivity")
    drawing = chart(name, f"ROC curve of {short(one.name)}", lines, x, y)
    known = run.evaluation.get("per_class", {}).get(one.name)
    said = ""
    if known:
        limits = interval(known.get("intervals", {}).get("auroc"))
        said = f": AUROC {number(known['auroc'])} (95 % interval {limits})"
    return figure(drawing, f"{short(one.name)}{said}. {int(one.positive.sum())} images.")


def _precision_recall(one: Drawn) -> Markup:
    curve = curves.precision_recall(one.scores, one.positive)
    share = float(one.positive.mean())
    lines = [
        Line("precision-recall", _steps(curve)),
        Line("chance", [(0.0, share), (1.0, share)], 1),
    ]
    if one.threshold is not None:
        called = one.scores >= one.threshold
        if called.any():
            found = float((called & one.positive).sum())
            at = found / float(one.positive.sum()), found / float(called.sum())
            lines.append(Line("operating point", [at], 2, dots=True))
    x, y = Axis("sensitivity (recall)"), Axis("precision (PPV)")
    title = f"Precision-recall curve of {short(one.name)}"
    drawing = chart(f"pr-{one.number}", title, lines, x, y)
    average = curves.average_precision(curve)
    return figure(drawing, f"{short(one.name)}: average precision {average:.3f}.")


def _points(curve: curves.Curve) -> list[Point]:
    return list(zip(curve.x.tolist(), curve.y.tolist(), strict=True))


def _steps(curve: curves.Curve) -> list[Point]:
    """Return the corners of steps: a precision is reached at the recall where its step ends."""
    before = [0.0, *curve.x.tolist()[:-1]]
    ends = zip(before, curve.x.tolist(), curve.y.tolist(), strict=True)
    return [point for start, end, height in ends for point in ((start, height), (end, height))]
