"""Plots: confusion matrices, learning curves of a run, compared settings, contributions.

Import this module only where a plot is drawn: loading matplotlib takes half a second.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedjax_med.errors import UserError
from fedjax_med.evaluation import tables
from fedjax_med.files import replacing

_TRAIN, _VALIDATION, _BALANCED = "#444444", "#1b6ca8", "#c8553d"
_MATRIX_SIZE = (9.2, 8.0)  # inches
_MOST_NAMED = 40  # classes whose names and counts can be read in it
_CONTRIBUTED = {"balanced_accuracy": "balanced accuracy", "loss": "fall of the loss"}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)  # used directly: pyplot would keep the figure in a global list
    return figure


def _write_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    with (
        replacing(Path(path)) as temporary,
        temporary.open("wb") as file,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # drawn as a box; JSON has it
        figure.savefig(file, format="png")


def _write_cells(axes: Axes, counts: np.ndarray[Any, Any], share: np.ndarray[Any, Any]) -> None:
    size = min(10.0, 130 / len(counts))
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if share[row, column] > 0.55 else "#222222" if count else "#bbbbbb"
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=size)


def _name_classes(axes: Axes, names: Sequence[str], support: np.ndarray[Any, Any]) -> None:
    """Write the classes' names and sizes along the axes, and part their cells by lines."""
    ticks, size = range(len(names)), min(10.0, 250 / len(names))
    # A `$` in a class name is literal, not the start of a formula.
    plain: dict[str, Any] = {"parse_math": False, "fontsize": size}
    axes.set_xticks(ticks, names, rotation=40, ha="right", rotation_mode="anchor", **plain)
    sizes = [str(n) if n else "absent" for n in support]
    axes.set_yticks(ticks, [f"{name} ({n})" for name, n in zip(names, sizes, strict=True)], **plain)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=min(1.5, 15 / len(names)))
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="predicted class", ylabel="true class (examples)")


def confusion_matrix_png(evaluation: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw the confusion matrix: counts in the cells, shares of the true class as colours.

    The picture has the same size for any number of classes. Of more than 40 it shows colours alone,
    and numbers for the classes, in their order.

    Args:
        evaluation: the result of `metrics.summarize`.
        path: the PNG file to write or replace.

    Raises:
        UserError: The file cannot be written.
    """
    counts = np.asarray(evaluation["confusion_matrix"])
    support = counts.sum(axis=1)
    share = counts / np.maximum(support, 1)[:, None]
    names = [tables.short(name, 30) for name in evaluation["per_class"]]
    figure = _figure(*_MATRIX_SIZE)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= _MOST_NAMED:
        _write_cells(axes, counts, share)
        _name_classes(axes, names, support)
    else:
        numbered = "as evaluation.json has them, from 0"
        axes.set(xlabel=f"predicted class, {numbered}", ylabel=f"true class, {numbered}")
        axes.locator_params(integer=True)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Confusion matrix, {evaluation['n']} examples")
    bar = figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    bar.outline.set_visible(False)
    _write_png(figure, path)


def _draw(axes: Axes, points: list[tuple[int, float | None]], **style: Any) -> None:
    """Draw the ``(round, value)`` points that have a value, with markers if they are few."""
    known = [(x, y) for x, y in points if y is not None]
    marker = "o" if len(known) <= 12 else None
    axes.plot([x for x, _ in known], [y for _, y in known], marker=marker, markersize=3.5, **style)


def _draw_clients(
    axes: Axes, validation: dict[int, dict[str, Any]], key: str, name: str, color: str
) -> None:
    """Draw a thin line for each client, or a band that holds 80 % of them if they are many."""
    clients = {x: values["clients"][key] for x, values in validation.items() if "clients" in values}
    number = max(map(len, clients.values()), default=0)
    if number > tables.MANY_CLIENTS:
        rounds = [x for x, values in clients.items() if tables.percentile(values, 50) is not None]
        values = [[tables.percentile(clients[x], share) for x in rounds] for share in (10, 90)]
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
    axes.locator_params("x", integer=True, min_n_ticks=1)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def learning_curves_png(records: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw loss, accuracy and balanced accuracy by round, with lines or a band for the clients.

    Args:
        records: the objects of ``metrics.jsonl``: ``round``, ``train_loss`` and ``validation``
            (as from `per_client.validation_metrics`; its curves leave out rounds without it).
        path: the PNG file to write or replace.

    Raises:
        UserError: There are no records, or the file cannot be written.
    """
    if not records:
        raise UserError("expected at least one round to draw learning curves of, got none.")
    validation = {r["round"]: r["validation"] for r in records if r.get("validation")}
    figure = _figure(11, 4.4)
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


def comparison_png(scores: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Draw each setting's balanced accuracy and AUROC: a point per seed, a line at the mean.

    Args:
        scores: for each setting, the headlines of each seed.
        path: the PNG file to write or replace.

    Raises:
        UserError: The file cannot be written.
    """
    shown = {"balanced_accuracy": "balanced accuracy", "macro_auroc": "macro AUROC"}
    figure = _figure(7, 3.2)
    for panel, (metric, label) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        for place, runs in enumerate(scores.values()):
            values = [one[metric] for one in runs]
            panel.plot([place] * len(values), values, "o", color=f"C{place}")
            panel.hlines(sum(values) / len(values), place - 0.3, place + 0.3, color=f"C{place}")
        panel.set_xticks(range(len(scores)), list(scores))
        panel.set(ylabel=label, xlim=(-0.5, len(scores) - 0.5))
        panel.grid(axis="y", alpha=0.3)
    _write_png(figure, path)


def contribution_png(result: dict[str, Any], path: Path) -> None:
    """Draw each hospital's Shapley value as a bar with standard error, and its leave-one-out.

    Args:
        result: the content of ``contribution.json``.
        path: the PNG file to write or replace.

    Raises:
        UserError: The file cannot be written.
    """
    rows = result["hospitals"]
    place = np.arange(len(rows))
    figure = _figure(7, min(1.4 + 0.32 * len(rows), 30))
    axes = figure.add_subplot()
    value, error = ([row[key] for row in rows] for key in ("shapley", "standard_error"))
    axes.barh(place, value, color=_VALIDATION, label="Shapley value")
    if any(error):
        axes.errorbar(value, place, xerr=error, fmt="none", ecolor=_TRAIN, label="standard error")
    alone = [row["leave_one_out"] for row in rows]
    axes.plot(alone, place, "D", color=_BALANCED, markersize=5, label="leave-one-out")
    names = [tables.short(row["name"], 30) for row in rows]
    axes.set_yticks(place, names, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.set_xlabel(f"contribution to the {_CONTRIBUTED[result['metric']]}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    _write_png(figure, path)
