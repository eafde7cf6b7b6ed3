"""The confusion matrix: counts, and shares of the true class as shades."""

import numpy as np

from fedjax_med.evaluation.cells import short
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, tag
from fedjax_med.report.style import shade

READS = "evaluation.json"
_MOST = 40  # classes whose cells can be read


def build(run: Run) -> Section | None:
    """Build the matrix; None without an evaluation, or with very many classes."""
    if not run.evaluation or len(run.evaluation["per_class"]) > _MOST:
        return None
    names = list(run.evaluation["per_class"])
    counts = np.asarray(run.evaluation["confusion_matrix"], np.int64)
    if counts.shape != (len(names), len(names)) or counts.min(initial=0) < 0:
        raise ValueError("expected a row and a column for each class")
    head = [tag("th", "true class", scope="col")]
    head += [tag("th", short(name), scope="col") for name in (*names, "all")]
    body = [_row(name, k, row) for k, (name, row) in enumerate(zip(names, counts, strict=True))]
    caption = "Test images by true class (rows) and predicted class (columns)"
    matrix = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", *head)), tag("tbody", *body)
    )
    text = "Percentages, and shades, are of the row's images. Outlined cells are right."
    wide = tag("div", matrix, class_="wide", tabindex=0, role="region", aria_label=caption)
    return Section("Confusion matrix", joined(wide, paragraph(text)))


def _row(name: str, k: int, row: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Markup:
    support = int(row.sum())
    cells = []
    for column, count in enumerate(row):
        share = float(count) / max(support, 1)
        text = f"{int(count)} ({100 * share:.0f} %)" if count else "0"
        kinds = shade(share) + " right" * (column == k)
        cells.append(tag("td", text, class_=kinds))
    return tag("tr", tag("th", short(name), scope="row"), *cells, tag("td", f"{support:,}"))
