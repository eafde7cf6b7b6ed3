"""The federation beside centralized training and each hospital alone."""

from typing import Any

from fedjax_med.evaluation import operating_table
from fedjax_med.evaluation.comparison import Difference, in_words, spread
from fedjax_med.evaluation.tables import HEADLINES
from fedjax_med.report.inputs import COMPARISON, Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, table
from fedjax_med.report.sections.hospitals import name_of
from fedjax_med.run.compare import SETTINGS

READS = COMPARISON
_TEXT = (
    "Each setting starts from the same weights and takes the same number of steps. Differences are "
    "paired, on the same test images, with 95 % intervals over the sampling of images; ± is the "
    "standard deviation over the seeds."
)


def build(run: Run) -> Section | None:
    """Build the tables; None for a single run."""
    found = run.comparison
    if not found:
        return None
    seeds, folds = len(found["seeds"]), int(found["folds"])
    on = f"{int(found['test_images']):,} test images"
    on += f" of Train, each tested once in {folds} folds" if folds else ""
    caption = f"Mean over {seeds} seed{'s'[: seeds > 1]}, on {on}"
    parts = [
        paragraph(_TEXT),
        table(caption, ("figure", *SETTINGS.values()), _scores(found)),
        table("Paired differences", _differences_header(), _differences(found)),
        _hospitals(found),
        *_operating(found.get("operating", {})),
        *_by_seed(found),
    ]
    return Section("Comparison", joined(*parts))


def _scores(found: dict[str, Any]) -> list[list[str]]:
    rows = [
        [name, *(spread([one[key] for one in found["scores"][of]]) for of in SETTINGS)]
        for key, name in HEADLINES.items()
    ]
    steps = [f"{found['steps'][of]:,.0f}" for of in SETTINGS]
    return [*rows, ["gradient steps of a seed, in all", *steps]]


def _differences_header() -> tuple[str, ...]:
    return ("figure", "federated - centralized", "federated - local")


def _differences(found: dict[str, Any]) -> list[list[str]]:
    return [
        [HEADLINES[key], *(in_words(Difference(**of[name])) for name in ("centralized", "local"))]
        for key, of in found["federated_minus"].items()
    ]


def _hospitals(found: dict[str, Any]) -> Markup:
    minus = found["federated_minus"]["balanced_accuracy"]
    absent = found["absent_classes"] or [[] for _ in found["hospitals"]]
    rows = []
    for client, (key, scores) in enumerate(found["hospitals"].items()):
        alone = spread([one["balanced_accuracy"] for one in scores])
        more = in_words(Difference(**minus[key]))
        lacks = ", ".join(map(str, absent[client])) or "-"
        rows.append((name_of(client, found["names"]), alone, more, lacks))
    header = ("hospital", "alone", "federated - alone", "classes without validation images")
    return table("Balanced accuracy of each hospital alone", header, rows)


def _operating(operating: dict[str, Any]) -> list[Markup]:
    rows = [
        [name, *(spread(of[setting]) for setting in SETTINGS)]
        for name, of in operating_table.of_settings(operating)
    ]
    return [table("Operating points", ("figure", *SETTINGS.values()), rows)] if rows else []


def _by_seed(found: dict[str, Any]) -> list[Markup]:
    """Show the balanced accuracy of each seed, where there are several."""
    if len(found["seeds"]) < 2:
        return []
    key, scores = "balanced_accuracy", found["scores"]
    rows = [
        (str(seed), *(spread([scores[of][number][key]]) for of in SETTINGS))
        for number, seed in enumerate(found["seeds"])
    ]
    return [table("Balanced accuracy of each seed", ("seed", *SETTINGS.values()), rows)]
