"""How good predictions are for each client's examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation import metrics
from fedjax_med.evaluation.metrics import Floats, Integers


def _validation_row(probabilities: Floats, labels: Integers, of: str) -> dict[str, Any]:
    known: dict[str, Any] = {
        "loss": metrics.log_loss,
        "accuracy": metrics.accuracy,
        "balanced_accuracy": metrics.balanced_accuracy,
    }
    if not len(labels):
        return {"n": 0} | dict.fromkeys(known)
    p, y = metrics.check(probabilities, labels, of)
    return {"n": len(y)} | {name: metrics.number(metric(p, y)) for name, metric in known.items()}


def validation_metrics(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, sizes: npt.ArrayLike
) -> dict[str, Any]:
    """Validation of one round, over all clients' examples and of each client.

    Args:
        probabilities: float ``[V, K]``, of the clients' examples one client after the other.
        labels: int ``[V]``.
        sizes: int ``[C]``, the examples of each client, ``V`` together.

    Returns:
        ``n``, ``loss``, ``accuracy`` and ``balanced_accuracy`` of the pooled examples, and
        ``clients``: the same keys, each a list of length ``C``. None where there are no examples.

    Raises:
        UserError: A client's probabilities are not finite; the message names the client.
    """
    p, y, ends = np.asarray(probabilities), np.asarray(labels), np.cumsum(sizes)[:-1]
    of_clients = zip(np.split(p, ends), np.split(y, ends), strict=True)
    rows = [
        _validation_row(its_p, its_y, f"validation of client {c}: ")
        for c, (its_p, its_y) in enumerate(of_clients)
    ]
    pooled = _validation_row(p, y, "validation: ")
    return pooled | {"clients": {key: [row[key] for row in rows] for key in pooled}}


def absent_classes(
    labels: npt.ArrayLike, sizes: npt.ArrayLike, class_names: Sequence[str]
) -> list[list[str]]:
    """Of each client, the classes that it has no example of; [] for one without examples.

    Args:
        labels: int ``[V]``, of the clients' examples one client after the other.
        sizes: int ``[C]``, the examples of each client, ``V`` together.
        class_names: ``K`` names.
    """
    parts = np.split(np.asarray(labels), np.cumsum(sizes)[:-1])
    held = [set(part.tolist()) for part in parts]
    return [[name for k, name in enumerate(class_names) if one and k not in one] for one in held]
