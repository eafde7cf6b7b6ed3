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
    """Build tables of training, validation and test images; None where no hospital has figures."""
    found, parts = run.evaluation, []
    if "clients" in found:
        parts += _trained_on(run.saved.get("train_sizes"), found.get("client_names", ()))
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


def _trained_on(sizes: Any, names: Sequence[str]) -> list[Markup]:
    """Return a table of the numbers of training images, where they are recorded of few clients."""
    if not isinstance(sizes, list) or len(sizes) > MANY_CLIENTS:
        return []
    if not all(isinstance(size, int) for size in sizes) or (names and len(names) != len(sizes)):
        return []
    rows = [(name_of(client, names), f"{size:,}") for client, size in enumerate(sizes)]
    return [table("Each hospital's training images", ("hospital", "images"), rows)]


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
