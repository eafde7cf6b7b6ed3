"""Evaluations and learning curves for people: tables, pictures and JSON files.

Everything is written to a temporary file in the same folder first and then renamed, so that a
reader never sees half a file and a failure leaves the old one as it was.
"""

import contextlib
import json
import os
import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedjax_med.errors import UserError

HEADLINES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "log_loss": "log loss",
}

_LONGEST_NAME = 44  # keeps the table within 100 columns
_MANY_CLIENTS = 50  # more are told of by how they are spread
_TRAIN, _VALIDATION, _BALANCED = "#444444", "#1b6ca8", "#c8553d"


def _number(value: float | None, undefined: str = "-") -> str:
    return undefined if value is None else f"{value:.3f}"


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _columns(header: Sequence[str], rows: list[list[str]]) -> list[str]:
    """Lines in which the first column is aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    first, others = widths[0], widths[1:]

    def line(cells: Sequence[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], others, strict=True)]
        return "  ".join([cells[0].ljust(first), *rest]).rstrip()

    rule = "-" * (sum(widths) + 2 * len(others))
    return [line(header), rule, *map(line, rows)]


def _headline_lines(evaluation: dict[str, Any]) -> list[str]:
    rows = []
    for key, name in HEADLINES.items():
        low, high = evaluation["intervals"][key]
        rows.append([name, _number(evaluation[key]), f"{_number(low)} to {_number(high)}"])
    return _columns(["metric", "value", "95 % interval"], rows)


def _class_lines(evaluation: dict[str, Any]) -> list[str]:
    rows = []
    for name, values in evaluation["per_class"].items():
        undefined = "-" if values["support"] else "absent"
        rates = [values[key] for key in ("sensitivity", "specificity", "auroc")]
        cells = [_number(rate, undefined) for rate in rates]
        rows.append([_short(name), str(values["support"]), *cells])
    return _columns(["class", "examples", "sensitivity", "specificity", "AUROC"], rows)


def _percentile(values: Sequence[float | None], share: float) -> float | None:
    """Of those that are known; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.percentile(known, share)) if known else None


def _client_lines(clients: dict[str, Any], names: Sequence[str]) -> list[str]:
    """A row for each client; of many clients the rows between which they lie."""
    keys = ("accuracy", "balanced_accuracy", "loss")
    header = ["validation", "examples", "accuracy", "balanced accuracy", "loss"]
    rows = []
    if len(clients["n"]) > _MANY_CLIENTS:
        for share in (10, 50, 90):
            cells = [_number(_percentile(clients[key], share)) for key in keys]
            label = f"{share} % of {len(clients['n']):,} clients are below"
            rows.append([label, f"{_percentile(clients['n'], share):.0f}", *cells])
        return _columns(header, rows)
    for index, count in enumerate(clients["n"]):
        name = _short(f"client {index}" + (f" ({names[index]})" if names else ""))
        rows.append([name, str(count), *(_number(clients[key][index]) for key in keys)])
    return _columns(header, rows)


def table(evaluation: dict[str, Any]) -> str:
    """The evaluation as plain text of at most 100 columns.

    Args:
        evaluation: What `metrics.summarize` returns; if it has the key ``clients`` (per-client
            lists as in `metrics.validation_metrics`), the table ends with one row per client,
            named by ``client_names`` if they have names, or with the spread of many.
    """
    absent = evaluation["absent_classes"]
    present = len(evaluation["per_class"]) - len(absent)
    lines = [f"{evaluation['n']} examples of {present} classes", ""]
    lines += [*_headline_lines(evaluation), "", *_class_lines(evaluation)]
    if absent:
        lines += ["", f"Means over classes are over the {present} classes with examples."]
    if "clients" in evaluation:
        lines += ["", *_client_lines(evaluation["clients"], evaluation.get("client_names", ()))]
    return "\n".join(lines)


def markdown(evaluations: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of the headlines over several runs: mean ± standard deviation, extremes.

    Args:
        evaluations: What `metrics.summarize` returned for each run. The standard deviation is the
            sample's (divided by runs - 1) and left out for a single run.

    Raises:
        UserError: There are no evaluations.
    """
    if not evaluations:
        raise UserError("expected at least one evaluation to make a table of, got none.")
    runs = len(evaluations)
    lines = [f"| metric | mean ± sd ({runs} runs) | lowest | highest |", "|---|---|---|---|"]
    for key, name in HEADLINES.items():
        values = [e[key] for e in evaluations if e[key] is not None]
        if len(values) < runs:
            lines.append(f"| {name} | undefined in {runs - len(values)} of {runs} | - | - |")
            continue
        spread = f" ± {statistics.stdev(values):.3f}" if runs > 1 else ""
        mean = statistics.fmean(values)
        lines.append(f"| {name} | {mean:.3f}{spread} | {min(values):.3f} | {max(values):.3f} |")
    return "\n".join(lines)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; takes the place of `path` if all went well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"could not write {path}: {reason}. Make room or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(value: Any, path: str | os.PathLike[str]) -> None:
    """Write `value` as indented JSON, keys in their order; the file is replaced as a whole.

    Raises:
        UserError: The file cannot be written.
        ValueError, TypeError: `value` has a NaN or infinity, or something JSON has no form for.
    """
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    with _replacing(Path(path)) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _write_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    # The canvas is used directly: pyplot would keep the figure in a global list.
    FigureCanvasAgg(figure)
    with (
        _replacing(Path(path)) as temporary,
        temporary.open("wb") as file,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box; the JSON has it
        figure.savefig(file, format="png")


def _write_cells(axes: Axes, counts: np.ndarray[Any, Any], share: np.ndarray[Any, Any]) -> None:
    size = min(10.0, 130 / len(counts))
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.55 else "#222222" if count else "#bbbbbb"
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=size)


def confusion_matrix_png(evaluation: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the confusion matrix: counts in the cells, shares of the true class as colours.

    Args:
        evaluation: What `metrics.summarize` returns.
        path: The PNG file to write or replace.

    Raises:
        UserError: The file cannot be written.
    """
    counts = np.asarray(evaluation["confusion_matrix"])
    support = counts.sum(axis=1)
    share = counts / np.maximum(support, 1)[:, None]
    names = [_short(name, 30) for name in evaluation["per_class"]]
    side = 3.0 + 0.55 * len(names)
    figure = Figure(figsize=(side + 1.2, side), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    _write_cells(axes, counts, share)
    ticks = range(len(names))
    # A `$` in a class name is a `$`, not the begin of a formula.
    plain = {"parse_math": False}
    axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor", **plain)
    sizes = [str(n) if n else "absent" for n in support]
    axes.set_yticks(ticks, [f"{name} ({n})" for name, n in zip(names, sizes, strict=True)], **plain)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class", ylabel="true class (examples)")
    axes.set_title(f"Confusion matrix, {evaluation['n']} examples")
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    bar.outline.set_visible(False)
    _write_png(figure, path)


def _draw(axes: Axes, points: list[tuple[int, float | None]], **style: Any) -> None:
    """Draw the ``(round, value)`` points that have a value, marked where they are few."""
    known = [(x, y) for x, y in points if y is not None]
    marker = "o" if len(known) <= 12 else None
    axes.plot([x for x, _ in known], [y for _, y in known], marker=marker, markersize=3.5, **style)


def _draw_clients(
    axes: Axes, validation: dict[int, dict[str, Any]], key: str, name: str, color: str
) -> None:
    """A thin line for each client; of many clients the band that holds eight in ten of them."""
    clients = {x: values["clients"][key] for x, values in validation.items() if "clients" in values}
    number = max(map(len, clients.values()), default=0)
    if number > _MANY_CLIENTS:
        rounds = [x for x, values in clients.items() if _percentile(values, 50) is not None]
        values = [[_percentile(clients[x], share) for x in rounds] for share in (10, 90)]
        low, high = np.array(values, np.float64)
        band = f"{name}, 10 to 90 % of the clients"
        axes.fill_between(rounds, low, high, label=band, color=color, alpha=0.12, linewidth=0)
        return
    for client in range(number):
        label = f"{name}, each client" if client == 0 else None
        points = [(x, values[client]) for x, values in clients.items()]
        _draw(axes, points, label=label, color=color, linewidth=0.8, alpha=0.45, zorder=1)


def _finish_panel(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def learning_curves_png(records: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw loss, accuracy and balanced accuracy by round; the clients' own as thin lines or a band.

    Args:
        records: The objects of ``metrics.jsonl``: ``round``, ``train_loss`` and ``validation``
            (as from `metrics.validation_metrics`; rounds without it are left out of its curves).
        path: The PNG file to write or replace.

    Raises:
        UserError: There are no records, or the file cannot be written.
    """
    if not records:
        raise UserError("expected at least one round to draw learning curves of, got none.")
    validation = {r["round"]: r["validation"] for r in records if r.get("validation")}
    figure = Figure(figsize=(11, 4.4), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    train = [(record["round"], record.get("train_loss")) for record in records]
    _draw(left, train, color=_TRAIN, label="training")
    _draw(
        left, [(x, v["loss"]) for x, v in validation.items()], color=_VALIDATION, label="validation"
    )
    _draw_clients(left, validation, "loss", "validation", _VALIDATION)
    _finish_panel(left, "Loss")
    for key, name, color in (
        ("accuracy", "accuracy", _VALIDATION),
        ("balanced_accuracy", "balanced accuracy", _BALANCED),
    ):
        _draw(right, [(x, v[key]) for x, v in validation.items()], color=color, label=name)
    _draw_clients(right, validation, "balanced_accuracy", "balanced accuracy", _BALANCED)
    right.set_ylim(0, 1)
    _finish_panel(right, "Validation accuracy")
    _write_png(figure, path)
