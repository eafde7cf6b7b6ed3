"""Figures of each hospital."""

from collections.abc import Sequence
from typing import Any

from fedjax_med.evaluation.cells import number
from fedjax_med.evaluation.tables import MANY_CLIENTS, percentile
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, table

READS = "evaluation.json"
_KEYS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "loss": "loss"}


def build(run: Run) -> Section | None:
    """Build a table of validation and one of test images; None where no hospital has figures."""
    found, parts = run.evaluation, []
    if "clients" in found:
        caption = "Each hospital's validation images"
        parts.append(_table(caption, found["clients"], found.get("client_names", ())))
    if "sites" in found:
        caption = "Each hospital's test images"
        parts.append(_table(caption, found["sites"], found.get("site_names", ())))
    if not parts:
        return None
    text = "A hospital's mean over classes is over its own classes alone."
    return Section("Hospitals", joined(*parts, paragraph(text)))


def _table(caption: str, of: dict[str, Any], names: Sequence[str]) -> Markup:
    if len(of["n"]) > MANY_CLIENTS:
        rows = [
            (f"{share} % are below", *(number(percentile(of[key], share)) for key in _KEYS))
            for share in (10, 50, 90)
        ]
        caption = f"{caption}: percentiles of {len(of['n']):,} hospitals"
        return table(caption, ("share of hospitals", *_KEYS.values()), rows)
    absent = of.get("absent_classes") or [[] for _ in of["n"]]
    each = [
        (
            name_of(client, names),
            f"{int(count):,}",
            *(number(of[key][client]) for key in _KEYS),
            ", ".join(map(str, absent[client])) or "-",
        )
        for client, count in enumerate(of["n"])
    ]
    return table(caption, ("hospital", "images", *_KEYS.values(), "classes it lacks"), each)


def name_of(client: int, names: Sequence[str]) -> str:
    """Name a hospital by its number, and its name if it has one."""
    return f"{client} ({names[client]})" if names else str(client)
