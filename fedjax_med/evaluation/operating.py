"""Operating points: the thresholds on a class's probability, from sums of the clients' counts.

A threshold is chosen on validation images, as the least at which a wanted share of those of other
classes, the specificity, is not called. It is a quantile, which a sum of histograms tells: each
client counts the probabilities of its own validation images in fixed bins, and only the counts are
added up. What the threshold does is then measured on test images, which had no part in it
(`fedjax_med.evaluation.operating_figures`).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError, check_name

_LEAST_CALLED = 10  # validation images of other classes beyond a threshold that is to be relied on
_FLAG = "--config.operating"


@dataclasses.dataclass
class Operating:
    """The operating points that an evaluation reports; may be changed on resume."""

    classes: str = ""  # names with commas between them; empty: none
    specificity: float = 0.9  # at least, among the validation images of other classes
    # Of the class among those to be screened, an assumption that is stated; 0: no screening table.
    prevalence: float = 0.0


def check(asked: Operating) -> None:
    """Refuse values that are out of range, and a prevalence of no class.

    Raises:
        UserError: The message names the field.
    """
    if not 0 < asked.specificity < 1:
        raise UserError(f"expected {_FLAG}.specificity in (0, 1), got {asked.specificity}.")
    if not 0 <= asked.prevalence < 1:
        raise UserError(f"expected {_FLAG}.prevalence in [0, 1), got {asked.prevalence}.")
    if asked.prevalence and not asked.classes:
        raise UserError(
            f"{_FLAG}.prevalence={asked.prevalence:g} is that of a class: give {_FLAG}.classes, "
            "too."
        )


def classes(asked: Operating, class_names: Sequence[str]) -> list[str]:
    """List the classes asked for, each once.

    A text that is itself the name of a class is that class alone, also if it has a comma.

    Raises:
        UserError: There is no such class; the message has the nearest.
    """
    if asked.classes in class_names:
        return [asked.classes]
    names = [name.strip() for name in asked.classes.split(",")] if asked.classes else []
    for name in names:
        check_name(name, class_names, f"the classes of the data, for {_FLAG}.classes")
    return list(dict.fromkeys(names))


def _edges() -> npt.NDArray[np.float32]:
    """Return the lower edges of the bins: 0, then steps of 0.01 of the logit from -16 to 16."""
    logits = np.arange(-1600, 1601) / 100
    # As predictions.csv is read: so an image is called by it if and only if it was here.
    return np.concatenate([[0.0], 1 / (1 + np.exp(-logits))]).astype(np.float32)


EDGES = _edges()  # [B], from 0 to 1 - 1.1e-7
BINS = len(EDGES)


def histogram(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], k: int
) -> npt.NDArray[np.int64]:
    """Count one client's validation images that are not of class `k`, by its probability.

    Args:
        probabilities: of this client's own images alone, ``[n, K]``.
        labels: of these, ``[n]``.
        k: the class.

    Returns:
        ``[BINS]``, all that leaves the client. Counts of all clients are added up.
    """
    others = probabilities[labels != k, k].astype(np.float32)
    bins = np.searchsorted(EDGES, others, side="right") - 1
    return np.bincount(bins, minlength=BINS).astype(np.int64)


class Point(NamedTuple):
    """An operating point of a class, chosen on validation images.

    Attributes:
        threshold: an image is called if its probability is at least this; None: there is none.
        others: the number of validation images of other classes.
        reason: why there is no threshold, or why it rests on little; empty if it may be relied on.
    """

    threshold: float | None
    others: int
    reason: str


def choose(counts: npt.NDArray[np.int64], specificity: float) -> Point:
    """Choose the least threshold at which the specificity is at least the wanted one.

    It is an edge of the bins, so it exceeds the least of all thresholds by at most one bin, or 1 %
    of the odds.

    Args:
        counts: the sum of the clients' histograms, ``[BINS]``.
        specificity: the wanted share of the images of other classes that are not called.
    """
    others = int(counts.sum())
    if not others:
        return Point(None, 0, "no validation images of other classes")
    # As many as a specificity of exactly this allows, though a sum of floats is just below it.
    allowed = math.floor((1 - specificity) * others + 1e-9)
    called = np.cumsum(counts[::-1])[::-1]
    (fitting,) = np.nonzero(called <= allowed)
    if not fitting.size:
        reason = f"{called[-1]} of {others} validation images of other classes have probability 1"
        return Point(None, others, reason)
    least = math.ceil(_LEAST_CALLED / (1 - specificity) - 1e-9)
    few = f"only {others} validation image{'s'[: others > 1]} of other classes, expected at least"
    reason = f"{few} {least}" if others < least else ""
    return Point(float(EDGES[fitting[0]]), others, reason)


def of_clients(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    sizes: Iterable[int],
    k: int,
    specificity: float,
) -> Point:
    """Choose the operating point of class `k` from the counts of all clients.

    Args:
        probabilities: ``[V, K]``, the clients' validation images concatenated in client order.
        labels: ``[V]``.
        sizes: ``[C]``, the number of images of each client, V in all.
        k: the class.
        specificity: the wanted one.
    """
    ends = np.cumsum(np.asarray(sizes, np.int64))[:-1]
    counts = np.zeros(BINS, np.int64)
    for own, its in zip(np.split(probabilities, ends), np.split(labels, ends), strict=True):
        if len(its):
            counts += histogram(own, its, k)
    return choose(counts, specificity)
