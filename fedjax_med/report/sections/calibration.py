"""The reliability diagram: whether predictions are right as often as they say."""

import numpy as np

from fedjax_med.evaluation import curves
from fedjax_med.evaluation.cells import interval, number
from fedjax_med.report.charts import Axis, Line, chart, figure
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, table

READS = "evaluation.json"


def build(run: Run) -> Section | None:
    """Draw the diagram; None without predictions."""
    if run.predicted is None:
        return None
    probabilities = run.predicted.probabilities.astype(np.float64)
    bins = curves.reliability(probabilities, run.predicted.label.astype(np.int64))
    points = [(one.confidence, one.accuracy) for one in bins]
    lines = [
        Line("share that is right", points),
        Line("perfectly calibrated", [(0.0, 0.0), (1.0, 1.0)], 1),
    ]
    x, y = Axis("confidence: the largest probability"), Axis("share predicted right")
    drawing = chart("reliability", "Reliability diagram of the test images", lines, x, y)
    rows = [(f"{one.confidence:.3f}", f"{one.n:,}", f"{one.accuracy:.3f}") for one in bins]
    header = ("mean confidence", "images", "share predicted right")
    values = table("Test images by confidence", header, rows)
    text = "Below the diagonal the model is too certain of itself, above it too little."
    body = joined(*_error(run), figure(drawing, text), values)
    return Section("Calibration", body)


def _error(run: Run) -> list[Markup]:
    """Say how large the calibration error is, and whether probabilities were scaled."""
    found = run.evaluation
    if not found:
        return []
    limits = interval(found["intervals"]["ece"])
    error = f"Expected calibration error {number(found['ece'])} (95 % interval {limits})."
    if "temperature" not in found:
        return [paragraph(error)]
    before = number(found["before_calibration"]["ece"])
    scaled = f" The probabilities were scaled by temperature {found['temperature']:.2f}; the error "
    scaled += f"before was {before}."
    if doubt := found.get("calibration_doubt"):
        scaled += f" This temperature rests on little: {doubt}."
    return [paragraph(error + scaled)]
