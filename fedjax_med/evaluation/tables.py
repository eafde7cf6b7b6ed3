"""Evaluations as tables for people and JSON files for programs.

Each file is written to a temporary file in the same folder first and then renamed, so that a
reader never sees half a file and a failure leaves the old one unchanged.
"""

import json
import os
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_med.errors import UserError, printable
from fedjax_med.evaluation import operating_table
from fedjax_med.evaluation.cells import columns as _columns
from fedjax_med.evaluation.cells import interval as _interval
from fedjax_med.evaluation.cells import number as _number
from fedjax_med.evaluation.cells import short as short
from fedjax_med.evaluation.estimates import LEAST
from fedjax_med.files import read_object, replacing, unreadable

HEADLINES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "log_loss": "log loss",
}

_LIMIT = 2**28  # bytes of evaluation.json: enough for a million clients
_ADVICE = "Evaluate the run again."
_CLASS_COLUMNS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auroc": "AUROC",
    "sensitivity_at_90_specificity": "at 90 % spec.",  # sensitivity at 90 % specificity
}
_WITH_INTERVALS = ("sensitivity", "specificity", "auroc")
MANY_CLIENTS = 50  # if there are more, percentiles are shown


def _headline_lines(evaluation: dict[str, Any]) -> list[str]:
    rows = []
    for key, name in HEADLINES.items():
        rows.append([name, _number(evaluation[key]), _interval(evaluation["intervals"][key])])
    return _columns(["metric", "value", "95 % interval"], rows)


def _class_lines(evaluation: dict[str, Any]) -> list[str]:
    rows = []
    for name, values in evaluation["per_class"].items():
        undefined = "-" if values["support"] else "absent"
        rates = [values[key] for key in _CLASS_COLUMNS]
        cells = [_number(rate, undefined) for rate in rates]
        rows.append([short(name), str(values["support"]), *cells])
    return _columns(["class", "examples", *_CLASS_COLUMNS.values()], rows)


def _class_interval_lines(evaluation: dict[str, Any]) -> list[str]:
    """Format the classes' intervals, indented, and say why one is missing."""
    classes = {name: row for name, row in evaluation["per_class"].items() if row["support"]}
    rows = [
        [short(name), *(_interval(row.get("intervals", {}).get(key)) for key in _WITH_INTERVALS)]
        for name, row in classes.items()
    ]
    header = ["95 % interval", *(_CLASS_COLUMNS[key] for key in _WITH_INTERVALS)]
    lines = [f"  {line}" for line in _columns(header, rows)]
    if not all("intervals" in row for row in classes.values()):
        lines.append("  -: an earlier version evaluated this; evaluate the run again.")
    elif any("-" in row for row in rows):
        lines.append(f"  -: fewer than {LEAST} images.")
    return lines


def percentile(values: Sequence[float | None], share: float) -> float | None:
    """Return the `share` percentile of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.percentile(known, share)) if known else None


def _client_lines(of: str, clients: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Format a row for each client, or rows of percentiles if there are many clients.

    A client's mean over classes covers only its own classes, so a line names those it lacks.
    """
    keys = ("accuracy", "balanced_accuracy", "loss")
    header = [of, "examples", "accuracy", "balanced accuracy", "loss"]
    rows = []
    if len(clients["n"]) > MANY_CLIENTS:
        for share in (10, 50, 90):
            cells = [_number(percentile(clients[key], share)) for key in keys]
            label = f"{share} % of {len(clients['n']):,} clients are below"
            rows.append([label, f"{percentile(clients['n'], share):.0f}", *cells])
        return _columns(header, rows)
    for index, count in enumerate(clients["n"]):
        name = short(f"client {index}" + (f" ({names[index]})" if names else ""))
        rows.append([name, str(count), *(_number(clients[key][index]) for key in keys)])
    absent = [
        f"client {index} has none of: {', '.join(map(printable, classes))}"
        for index, classes in enumerate(clients.get("absent_classes", ()))
        if classes
    ]
    return [*_columns(header, rows), *[""][: len(absent)], *absent]


def _own_lines(own: dict[str, list[float | None]]) -> list[str]:
    """Format the scores of the clients' own models, each alone on all test images."""
    parts = []
    for name, values in own.items():
        known = [value for value in values if value is not None]
        if known:
            spread = f"{min(known):.3f} to {max(known):.3f}"
            parts.append(f"{HEADLINES[name]} {statistics.fmean(known):.3f} ({spread})")
    return [f"The clients' own models by themselves: {', '.join(parts)}."] if parts else []


def _calibration_lines(evaluation: dict[str, Any]) -> list[str]:
    """Format the temperature, the metrics before it, and why it may be of little use."""
    if "temperature" not in evaluation:
        return []
    before = evaluation["before_calibration"]
    uncalibrated = ", ".join(
        f"{HEADLINES[name]} {_number(value)}" for name, value in before.items()
    )
    temperature = f"{evaluation['temperature']:.2f}"
    lines = ["", f"Calibrated by temperature {temperature}; before: {uncalibrated}."]
    if doubt := evaluation.get("calibration_doubt"):
        lines.append(f"This temperature rests on little: {doubt}.")
    return lines


def _group_lines(groups: dict[str, Any]) -> list[str]:
    """Say how many images are in groups, and format the figures without group mates in Train."""
    if not groups:
        return []
    count, mates = groups["images"], groups.get("mates_in_train", [])
    lines = [
        "",
        f"{count} of the images are in groups of two or more; intervals take them together.",
    ]
    if not mates:
        return lines
    rest = groups["without_mates"]
    lines += [f"{len(mates)} have a group mate in Train; {rest['n']} have none, and of these:"]
    rows = [
        [HEADLINES[key], _number(rest[key]), _interval(limits)]
        for key, limits in rest.get("intervals", {}).items()
    ]
    header = ["without group mates in Train", "value", "95 % interval"]
    lines += ["", *_columns(header, rows)] if rows else []
    return lines + operating_table.lines(rest.get("operating", {}), " without group mates in Train")


def table(evaluation: dict[str, Any]) -> str:
    """Format the evaluation as plain text of at most 100 columns.

    Args:
        evaluation: the result of `metrics.summarize`; if it has the key ``clients`` (per-client
            lists as in `per_client.validation_metrics`), the table ends with one row per client,
            named by ``client_names`` if given, or with percentiles of many clients; likewise
            with ``sites``, the owners of the test images, and ``site_names``.
    """
    absent = evaluation["absent_classes"]
    present = len(evaluation["per_class"]) - len(absent)
    lines = [f"{evaluation['n']} examples of {present} classes", ""]
    lines += [*_headline_lines(evaluation), "", *_class_lines(evaluation)]
    lines += ["", *_class_interval_lines(evaluation)]
    lines += _calibration_lines(evaluation)
    lines += operating_table.lines(evaluation.get("operating", {}))
    lines += _group_lines(evaluation.get("groups", {}))
    if absent:
        lines += ["", f"Means over classes are over the {present} classes with examples."]
    if "own_models" in evaluation:
        lines += ["", *_own_lines(evaluation["own_models"])]
    for backdoor in evaluation.get("backdoors", ()):
        lines += [
            "",
            f"{backdoor['attack']}: of {backdoor['n']} images with its trigger, "
            f"{100 * backdoor['success']:.0f} % are taken for {printable(backdoor['target'])}.",
        ]
    if "clients" in evaluation:
        names = evaluation.get("client_names", ())
        lines += ["", *_client_lines("validation", evaluation["clients"], names)]
    if "sites" in evaluation:
        names = evaluation.get("site_names", ())
        lines += ["", *_client_lines("test", evaluation["sites"], names)]
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; bars and line ends in a cell do not end it."""
    first, *others = (
        "".join(f"| {_cell(text)} " if text else "| " for text in line) + "|"
        for line in (header, *rows)
    )
    return "\n".join([first, "|---" * len(header) + "|", *others])


def _cell(text: str) -> str:
    # Backslashes before a bar are doubled: the last would be taken for the bar's.
    return re.sub(r"(\\*)\|", r"\1\1\\|", " ".join(text.splitlines()))


def markdown(evaluations: Sequence[dict[str, Any]], what: str = "runs") -> str:
    """Format a Markdown table of the figures over runs: mean ± standard deviation, extremes.

    They are the headlines, and those of the operating points if these were asked for.

    Args:
        evaluations: the result of `metrics.summarize` for each run. The standard deviation is the
            sample's (divided by runs - 1) and left out for a single run.
        what: the plural noun for the evaluations in the header.

    Raises:
        UserError: There are no evaluations.
    """
    if not evaluations:
        raise UserError("expected at least one evaluation to make a table of, got none.")
    runs = len(evaluations)
    rows = []
    figures = [(name, [e[key] for e in evaluations]) for key, name in HEADLINES.items()]
    for name, each in figures + operating_table.over_runs(evaluations):
        values = [value for value in each if value is not None]
        if len(values) < runs:
            rows.append([name, f"undefined in {runs - len(values)} of {runs}", "-", "-"])
            continue
        spread = f" ± {statistics.stdev(values):.3f}" if runs > 1 else ""
        mean = statistics.fmean(values)
        rows.append([name, f"{mean:.3f}{spread}", f"{min(values):.3f}", f"{max(values):.3f}"])
    return markdown_table(["metric", f"mean ± sd ({runs} {what})", "lowest", "highest"], rows)


def _json(value: Any) -> str:
    """Format `value` as JSON whose characters all print: no control of a terminal is among them."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:  # the other ASCII controls are escaped
        return text
    return "".join(one if one.isprintable() or one == "\n" else _escape(one) for one in text)


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if character <= "\x7f" else json.dumps(character)[1:-1]


def write_json(value: Any, path: str | os.PathLike[str]) -> None:
    """Write `value` as indented JSON, keys in given order; the file is replaced as a whole.

    Raises:
        UserError: The file cannot be written.
        ValueError, TypeError: `value` has a NaN or infinity, or something JSON cannot represent.
    """
    text = _json(value)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read the ``evaluation.json`` at `path`.

    Raises:
        UserError: There is no such file, or it is malformed.
    """
    evaluation = read_object(path, _LIMIT, _ADVICE)
    kinds: dict[str, Any] = {"client_names": list, "site_names": list, "clients": dict}
    kinds |= {"operating": dict}
    wrong = [
        name for name, kind in kinds.items() if not isinstance(evaluation.get(name, kind()), kind)
    ]
    wrong += [
        name for name in HEADLINES if not isinstance(evaluation.get(name, ""), float | int | None)
    ]
    if wrong:
        raise unreadable(path, ValueError(f"{wrong[0]} is not what `evaluate` writes"), _ADVICE)
    return evaluation
