"""Metrics of the predictions for each client's examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.evaluation import clusters, intervals, metrics
from fedjax_med.evaluation.metrics import Floats, Integers
from fedjax_med.evaluation.predictions import Predictions

MAIN = ("accuracy", "balanced_accuracy", "macro_auroc")


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
    """Compute the validation metrics of one round, over all clients' examples and per client.

    Args:
        probabilities: float ``[V, K]``, the clients' examples concatenated in client order.
        labels: int ``[V]``.
        sizes: int ``[C]``, the number of examples of each client, ``V`` in all.

    Returns:
        ``n``, ``loss``, ``accuracy`` and ``balanced_accuracy`` of the pooled examples, and
        ``clients``: the same keys, each a list of length ``C``. Metrics without examples are None.

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
    """List the classes that each client lacks; [] for a client without examples.

    Args:
        labels: int ``[V]``, the clients' examples concatenated in client order.
        sizes: int ``[C]``, the number of examples of each client, ``V`` in all.
        class_names: ``K`` names.
    """
    parts = np.split(np.asarray(labels), np.cumsum(sizes)[:-1])
    held = [set(part.tolist()) for part in parts]
    return [[name for k, name in enumerate(class_names) if one and k not in one] for one in held]


def summarize_predictions(
    predictions: Predictions,
    class_names: Sequence[str],
    sites: Sequence[str],
    group: npt.NDArray[np.str_] | None = None,
) -> dict[str, Any]:
    """Compute the metrics of the test images, and of each client's own if all have an owner.

    Args:
        predictions: of the test images.
        class_names: ``K`` names.
        sites: site names of the clients; () if they have none.
        group: the names of the images' groups, which intervals heed, as in `metrics.summarize`.

    Raises:
        UserError: There are no images, or the probabilities are invalid.
    """
    _, client, label, probabilities = predictions
    evaluation = metrics.summarize(probabilities, label, class_names, groups=group)
    if group is not None:
        evaluation["groups"] = _groups(group)
    if (client >= 0).all():
        order = np.argsort(client, kind="stable")
        sizes = np.bincount(client, minlength=len(sites))
        found = validation_metrics(probabilities[order], label[order], sizes)["clients"]
        absent = absent_classes(label[order], sizes, class_names)
        evaluation["sites"] = found | {"absent_classes": absent}
        evaluation["site_names"] = list(sites)
    return evaluation


def _groups(group: npt.NDArray[np.str_]) -> dict[str, Any]:
    """Count the groups of two or more images, and the images in them."""
    sizes = np.unique(group[group != ""], return_counts=True)[1]
    return {"groups": int((sizes > 1).sum()), "images": int(sizes[sizes > 1].sum())}


def without_mates(
    predictions: Predictions, group: npt.NDArray[np.str_], mates: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Compute the main figures of the test images that have no group mate in Train.

    Args:
        predictions: of the test images.
        group: the names of their groups.
        mates: ``[N]``, whether Train has an image of the group.

    Returns:
        ``mates_in_train``, the names of the images that have one; and ``without_mates``, the
        others' number ``n``, their `MAIN` figures and the ``intervals`` of these.
    """
    rest = ~mates
    found: dict[str, Any] = {"n": int(rest.sum())}
    if found["n"]:
        p, y = metrics.check(predictions.probabilities[rest], predictions.label[rest])
        groups = clusters.numbered(group[rest])
        each = {name: metrics.estimate(name, p, y, groups=groups) for name in MAIN}
        found |= {name: metrics.number(one.value) for name, one in each.items()}
        found["intervals"] = {name: intervals.limits(one.interval) for name, one in each.items()}
    return {"mates_in_train": predictions.image[mates].tolist(), "without_mates": found}
