"""Operating points and screening by them, as tables for people."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fedjax_med.errors import printable
from fedjax_med.evaluation.cells import columns, interval, number, short

_OF_PEOPLE = {
    "found": "found",
    "missed": "missed",
    "false_alarms": "false alarms",
    "rightly_negative": "rightly negative",
}
_PREDICTIVE = {"ppv": "positive predictive value", "npv": "negative predictive value"}
_NAME = 28  # characters of a class's name in a heading


def _names(specificity: float) -> dict[str, str]:
    """Name the figures: those at the threshold from validation, and that of the ROC curve."""
    return {
        "sensitivity": "sensitivity at the threshold",
        "specificity": "specificity at the threshold",
        "roc_sensitivity": f"sensitivity at {_percent(specificity)} specificity (test images' ROC)",
    }


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def lines(operating: dict[str, Any], where: str = "") -> list[str]:
    """Format a table for each class, and say why a threshold is missing or rests on little.

    Args:
        operating: as `fedjax_med.evaluation.operating_runs.of_run` returns; {}: none asked for.
        where: which images, in the headings.
    """
    found: list[str] = []
    for name, row in operating.get("classes", {}).items():
        found += ["", *_class_lines(name, row, operating["specificity"], where)]
    return found


class ClassTable(NamedTuple):
    """The operating point of a class: a heading, rows of name, value and interval, and remarks."""

    heading: str
    rows: list[list[str]]
    remarks: list[str]


def class_table(name: str, row: dict[str, Any], specificity: float, where: str = "") -> ClassTable:
    """Format the figures of a class, and say why a threshold is missing or rests on little.

    Args:
        name: of the class.
        row: its entry.
        specificity: the wanted one.
        where: which images, in the heading.
    """
    first = f"threshold of {_percent(specificity)} specificity in validation"
    rows = [[first, _threshold(row), ""]]
    for key, text in _names(specificity).items():
        rows.append([text, number(row[key]), interval(row["intervals"][key])])
    if "screening" in row:
        rows += _screening_rows(row["screening"])
    heading = f"{short(name, _NAME)}{where}: {row['n']} of {row['n'] + row['others']} images"
    remarks = []
    if "reason" in row:
        remarks.append(f"{_why(row['threshold'])}: {row['reason']}.")
    for fold, reason in row.get("reasons", {}).items():
        remarks.append(f"{printable(fold)}: {_why(row['thresholds'][fold])}: {reason}.")
    return ClassTable(heading, rows, remarks)


def _class_lines(name: str, row: dict[str, Any], specificity: float, where: str) -> list[str]:
    found = class_table(name, row, specificity, where)
    return [*columns([found.heading, "value", "95 % interval"], found.rows), *found.remarks]


def _why(threshold: float | None) -> str:
    return "no threshold" if threshold is None else "threshold rests on little"


def _threshold(row: dict[str, Any]) -> str:
    """Format the threshold, or the least and the greatest of the folds."""
    each = list(row.get("thresholds", {"": row.get("threshold")}).values())
    if None in each:
        return "-"
    return " to ".join(dict.fromkeys(_digits(one) for one in (min(each), max(each))))


def _digits(threshold: float) -> str:
    text = f"{threshold:.3g}"
    return text if text != "1" else f"{threshold:.7f}"  # nothing would reach 1


def _screening_rows(screening: dict[str, Any]) -> list[list[str]]:
    limits = screening["intervals"]
    ill = f"{_percent(screening['prevalence'])} of whom have it (assumed)"
    rows = [[f"of {screening['people']:,} people, {ill}:", "", ""]]
    for key, text in _OF_PEOPLE.items():
        value, pair = screening[key], limits[key]
        within = "-" if pair is None else " to ".join(f"{limit:.1f}" for limit in pair)
        rows.append([f"  {text}", "-" if value is None else f"{value:.1f}", within])
    for key, text in _PREDICTIVE.items():
        rows.append([f"  {text}", number(screening[key]), interval(limits[key])])
    return rows


def over_runs(evaluations: Sequence[dict[str, Any]]) -> list[tuple[str, list[float | None]]]:
    """List the figures of each class by run, with their names.

    Args:
        evaluations: of the runs; if they were not all asked the same, there are none.
    """
    each = [one.get("operating", {}) for one in evaluations]
    if not all(each) or len({(one["specificity"], *one["classes"]) for one in each}) > 1:
        return []
    return [
        (f"{short(name, _NAME)}: {text}", [one["classes"][name][key] for one in each])
        for name in each[0]["classes"]
        for key, text in _names(each[0]["specificity"]).items()
    ]


def of_settings(compared: dict[str, Any]) -> list[tuple[str, dict[str, list[float | None]]]]:
    """List the figures of each class, by setting and seed, with their names.

    Args:
        compared: as `fedjax_med.evaluation.operating_runs.compared` returns.
    """
    return [
        (
            f"{short(name, _NAME)}: {text}",
            {setting: row[key] for setting, row in settings.items()},
        )
        for name, settings in compared.get("classes", {}).items()
        for key, text in _names(compared["specificity"]).items()
    ]
