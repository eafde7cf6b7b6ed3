"""Checks that the numbers of a simulation are finite: what a round makes."""

from typing import Any

import jax
import numpy as np

from fedjax_med.core.trees import name_of, not_finite
from fedjax_med.data.client_data import ClientData
from fedjax_med.errors import UserError, some
from fedjax_med.execution.rounds import RoundResult

_REMEDY = (
    "clean the data, lower the learning rate, or leave such clients out with "
    "Process(..., faults=Faults(Participation(skip_invalid=True)))"
)


def check_round(result: RoundResult, clients: ClientData) -> None:
    """Refuse a round after which an update, a loss or a part of the state is not finite.

    The loss alone does not tell: a compiled relu may turn NaN into 0, and the loss stays finite
    while the gradient is NaN.

    Args:
        result: of the round; an update that does not count may hold anything.
        clients: whose examples are searched for the cause.
    """
    metrics = result.metrics
    counts = metrics["weight"] > 0
    if wrong := metrics["client"][counts & ~metrics["finite"]].tolist():
        raise UserError(
            f"round {result.round}: the update of {_named(wrong)} holds NaN or infinity"
            f"{_cause(clients, wrong)}: {_REMEDY}."
        )
    sound = np.isfinite(metrics.get("loss", np.zeros(len(counts))))
    if wrong := metrics["client"][counts & ~sound].tolist():
        raise UserError(
            f"round {result.round}: the loss of {_named(wrong)} is NaN or infinite, though the "
            f"update is finite{_cause(clients, wrong)}: are all labels classes from 0 to K - 1?"
            f"{_span(clients)}"
        )
    _check_state(result)


def _check_state(result: RoundResult) -> None:
    state = result.state
    wrong = not_finite(
        {"server": state.server, "clients": state.clients, "aggregator": state.aggregator}
    )
    if wrong:
        raise UserError(
            f"round {result.round}: the new state holds NaN or infinity in {some(wrong)}, though "
            "the updates of all clients are finite: check what the aggregator, its transforms and "
            "the algorithm return, or lower the learning rate of the server's optimizer."
        )


def _named(clients: list[int]) -> str:
    return f"client{'s' * (len(clients) > 1)} {some(map(str, clients))}"


def _span(clients: ClientData) -> str:
    """Say from where to where whole-numbered labels go; "" for others."""
    labels: Any = clients.split.label
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        return ""
    least = int(labels.min())
    return f" They go from {least} to {labels.max()}{': subtract 1.' if least == 1 else '.'}"


def _cause(clients: ClientData, wrong: list[int]) -> str:
    """Say where the first of the `wrong` clients holds NaN or infinity; "" if it does not."""
    rows = clients.indices[wrong[0]]
    for what, tree in (("inputs", clients.split.image), ("labels", clients.split.label)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if np.issubdtype(leaf.dtype, np.inexact) and (found := _first(leaf, rows)) is not None:
                name = f" {name_of(path)}" if path else ""
                return f" (as its {what}{name} do, first in row {found})"
    return ""


def _first(leaf: Any, rows: Any) -> int | None:
    """Return the first of `rows` in which `leaf` is not finite; None: none is."""
    bad = ~np.isfinite(leaf[rows]).reshape(len(rows), -1).all(axis=1)
    return int(rows[int(np.argmax(bad))]) if bad.any() else None
