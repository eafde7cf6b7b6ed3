"""What features of the images tell of the labels: doubtful ones, alike classes, the source.

All figures are out of fold: of each image by a discriminant that was fitted to other images, none
of them of its group. They are of Train without copies. An image under two labels would be a pair of
classes that nothing can tell apart, whatever the classes are; so of each image one copy stays, with
the label of the rarer class, as under the policy ``rarest``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data.audit import class_pairs, label_errors, sources
from fedjax_med.data.audit.areas import Area, area
from fedjax_med.data.audit.class_pairs import Pair
from fedjax_med.data.audit.discriminant import out_of_fold_logs

FOLDS = 5
REPEATS = 3  # of the folds, whose chance moves an AUROC by some 0.02
LEAST = 20  # images, and two classes: there is nothing to say of fewer

_POWERS = np.geomspace(0.02, 2, 41)

Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


class Features(NamedTuple):
    """Features of images, and where they are from."""

    values: Floats  # [N, D]
    of: str  # what they are, such as "statistics of the pixels"
    trained: bool  # of a trained network


class Doubt(NamedTuple):
    """A label that is probably wrong."""

    name: str
    label: str
    likely: str
    confidence: float  # the probability of the label


class SourceArea(NamedTuple):
    """How well the features tell one source from the others."""

    source: str
    within: str  # the class whose images are compared; "": all
    area: Area


class Evidence(NamedTuple):
    """The result of `weigh`."""

    features: str
    width: int  # D
    trained: bool
    images: int
    class_names: tuple[str, ...]
    sizes: tuple[int, ...]  # [K]
    balanced_accuracy: float  # of the classes that have images
    doubts: tuple[Doubt, ...]
    joint: tuple[tuple[int, ...], ...]  # [K, K], the confident joint
    pairs: tuple[Pair, ...]
    sources: tuple[SourceArea, ...] | None  # None: the sources are not known

    def doubtful_pairs(self) -> list[Pair]:
        """List the pairs of classes that should be told apart and are not."""
        return [pair for pair in self.pairs if pair.doubtful(self.trained)]


def weigh(
    features: Features,
    labels: Integers,
    groups: Integers,
    names: Sequence[str],
    class_names: tuple[str, ...],
    origins: Sequence[str] | None = None,
    seed: int = 0,
) -> Evidence:
    """Ask the features for doubtful labels, alike classes and the source.

    Args:
        features: of N images, ``[N, D]``.
        labels: ``[N]``, of two classes or more.
        groups: ``[N]``, numbers; images that share one, as those of a lesion, are in one fold.
        names: ``[N]``, to list them.
        class_names: K.
        origins: ``[N]``, the sources, "" where one is not known; None: none is.
        seed: of the folds.
    """
    logs = np.full((len(labels), len(class_names)), -np.inf)
    found = _logs(features.values, labels, groups, seed)
    logs[:, : found.shape[1]] = calibrated(found, labels)
    doubts = label_errors.find(np.exp(logs), labels)
    right = logs.argmax(axis=1) == labels
    own = np.exp(logs)[np.arange(len(labels)), labels]
    return Evidence(
        features.of,
        int(features.values.shape[1]),
        features.trained,
        len(labels),
        class_names,
        tuple(np.bincount(labels, minlength=len(class_names)).tolist()),
        float(np.mean([right[labels == k].mean() for k in np.unique(labels)])),
        tuple(
            Doubt(names[at], class_names[labels[at]], class_names[likely], float(own[at]))
            for at, likely in zip(doubts.image, doubts.likely, strict=True)
        ),
        tuple(map(tuple, doubts.joint.tolist())),
        class_pairs.compare(logs, labels, groups),
        None if origins is None else _sources(features, labels, groups, class_names, origins, seed),
    )


def _logs(values: Floats, labels: Integers, groups: Integers, seed: int) -> npt.NDArray[np.float64]:
    """Compute the logarithms of out-of-fold probabilities, geometric means over `REPEATS`."""
    each = [
        out_of_fold_logs(values, labels, groups, FOLDS, REPEATS * seed + repeat)
        for repeat in range(REPEATS)
    ]
    logs = np.mean(each, axis=0)
    return np.asarray(logs - np.log(np.exp(logs).sum(axis=1, keepdims=True)))


def calibrated(logs: npt.NDArray[np.float64], labels: Integers) -> npt.NDArray[np.float64]:
    """Raise probabilities to the power that makes the labels most likely, all classes alike.

    A discriminant is too sure of itself, as features are not normal and many.

    Args:
        logs: ``[N, K]``, logarithms of out-of-fold probabilities.
        labels: ``[N]``.

    Returns:
        Logarithms of probabilities, ``[N, K]``; the order of the classes stays.
    """
    own = np.arange(len(labels)), labels
    weight = 1 / np.bincount(labels)[labels] * np.isfinite(logs[own])

    def powered(power: float) -> npt.NDArray[np.float64]:
        scaled = power * logs
        return np.asarray(scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True)))

    each = [powered(power) for power in _POWERS]
    loss = [-float(np.where(weight > 0, one[own], 0) @ weight) for one in each]
    return each[int(np.argmin(loss))]


def _sources(
    features: Features,
    labels: Integers,
    groups: Integers,
    class_names: tuple[str, ...],
    origins: Sequence[str],
    seed: int,
) -> tuple[SourceArea, ...]:
    """Tell the sources by the features, over all images and within each class."""
    given = np.array(origins)
    parts = [("", np.ones(len(labels), bool))]
    parts += [(class_names[k], labels == k) for k in np.unique(labels)]
    found = []
    for within, part in parts:
        several = _several(given, groups, part)
        index = np.flatnonzero(part & np.isin(given, several))
        if len(several) < 2:
            continue
        of = np.array([several.index(one) for one in given[index].tolist()])
        logs = _logs(features.values[index], of, groups[index], seed)
        for at, source in enumerate(several if len(several) > 2 else several[:1]):
            rest = np.delete(logs, at, axis=1).max(axis=1)
            one = area(logs[:, at] - rest, of == at, groups[index])
            found.append(SourceArea(source, within, one))
    return tuple(found)


def _several(
    origins: npt.NDArray[np.str_], groups: Integers, part: npt.NDArray[np.bool_]
) -> list[str]:
    """List the sources with images enough in `part`, those with most first."""
    pairs = set(zip(origins[part].tolist(), groups[part].tolist(), strict=True))
    sizes = Counter(origin for origin, _ in pairs if origin)
    return [one for one, size in sizes.most_common() if size >= sources.LEAST]


def to_json(found: Evidence | None) -> dict[str, Any] | None:
    """Convert the evidence to dictionaries and lists that JSON can hold."""
    if found is None:
        return None
    names = found.class_names
    return {
        "features": found.features,
        "number_of_features": found.width,
        "of_a_trained_network": found.trained,
        "images": found.images,
        "balanced_accuracy": found.balanced_accuracy,
        "doubtful_labels": [one._asdict() for one in found.doubts],
        "confident_joint": [list(row) for row in found.joint],
        "class_pairs": [
            {
                "classes": [names[k] for k in pair.classes],
                **_area(pair.area),
                "median_auroc_to_other_classes": None if np.isnan(pair.others) else pair.others,
                "doubtful": pair.doubtful(found.trained),
            }
            for pair in found.pairs
        ],
        "sources": None
        if found.sources is None
        else [
            {"source": one.source, "within_class": one.within or None, **_area(one.area)}
            for one in found.sources
        ],
    }


def _area(one: Area) -> dict[str, Any]:
    return {"auroc": one.auroc, "low": one.low, "high": one.high, "images": list(one.sizes)}
