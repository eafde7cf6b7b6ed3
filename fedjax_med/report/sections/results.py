"""Figures of each class, with intervals."""

from typing import Any

from fedjax_med.evaluation import operating_table
from fedjax_med.evaluation.cells import interval, number
from fedjax_med.evaluation.tables import HEADLINES
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, table, tag

READS = "evaluation.json"
_SHOWN = {"sensitivity": "sensitivity", "specificity": "specificity", "auroc": "AUROC"}


def build(run: Run) -> Section | None:
    """Build the tables; None without an evaluation."""
    found = run.evaluation
    if not found:
        return None
    rows = [(name, *_cells(row)) for name, row in found["per_class"].items()]
    header = ["class", "images"]
    for name in _SHOWN.values():
        header += [name, "95 % interval"]
    parts = [
        table("Each class against all others, on test images", header, rows),
        paragraph("A dash: too few images for an interval, or no figure without images."),
        *_absent(found),
        *_without_mates(found.get("groups", {})),
        *_operating(found.get("operating", {})),
    ]
    return Section("Results of each class", joined(*parts))


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [f"{int(row['support']):,}"]
    for key in _SHOWN:
        cells += [number(row[key]), interval(row.get("intervals", {}).get(key))]
    return cells


def _absent(found: dict[str, Any]) -> list[Markup]:
    if not found["absent_classes"]:
        return []
    names = ", ".join(map(str, found["absent_classes"]))
    return [paragraph(f"Means over classes leave out those without test images: {names}.")]


def _without_mates(groups: dict[str, Any]) -> list[Markup]:
    """Show the figures of test images that share no lesion or patient with Train."""
    rest = groups.get("without_mates", {})
    if not rest.get("intervals"):
        return []
    rows = [
        (HEADLINES[key], number(rest[key]), interval(limits))
        for key, limits in rest["intervals"].items()
    ]
    caption = f"The {rest['n']} test images of whose group none is in Train"
    return [table(caption, ("figure", "value", "95 % interval"), rows)]


def _operating(operating: dict[str, Any]) -> list[Markup]:
    """Show each class's threshold and what it does, as the commands print it."""
    parts = []
    for name, row in operating.get("classes", {}).items():
        found = operating_table.class_table(name, row, operating["specificity"])
        parts.append(table(found.heading, ("figure", "value", "95 % interval"), found.rows))
        parts += map(paragraph, found.remarks)
    return [tag("h3", "Operating points"), *parts] if parts else []
