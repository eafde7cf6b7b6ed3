"""Labels that are probably wrong, by confident learning.

Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal
of Artificial Intelligence Research 2021. An image counts as one of class j if its probability of j
is at least the mean of those that are labelled j: so a class that the predictions favour needs more
than one that they neglect. Doubtful is an image that counts as another class than its label's, and
whose label is not the most probable class: ``filter_by="confident_learning"`` of `cleanlab`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]


class Doubts(NamedTuple):
    """The result of `find`; the most doubtful label comes first."""

    joint: Integers  # [K, K], images by their label and by the class that they count as
    image: Integers  # [n], positions
    likely: Integers  # [n], the class that each counts as


def thresholds(probabilities: Floats, labels: Integers) -> Floats:
    """Compute the mean probability of each class among the images of its label: ``[K]``.

    It is infinite for a class without images.
    """
    num_classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    sizes = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=own, minlength=num_classes)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)


def find(probabilities: Floats, labels: Integers) -> Doubts:
    """Find the labels that out-of-sample probabilities contradict with confidence.

    Args:
        probabilities: ``[N, K]``, of each image by a model that was not fitted to it.
        labels: ``[N]``, as given.
    """
    num_classes = probabilities.shape[1]
    # An image at the threshold counts, whatever was rounded.
    enough = probabilities >= thresholds(probabilities, labels) - 1e-6
    counted = np.flatnonzero(enough.any(axis=1))
    likely = np.where(enough, probabilities, -1.0).argmax(axis=1)
    joint = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint, (labels[counted], likely[counted]), 1)
    other = (likely != labels) & (probabilities.argmax(axis=1) != labels)
    doubtful = counted[other[counted]]
    own = probabilities[doubtful, labels[doubtful]]
    order = doubtful[np.argsort(own, kind="stable")]
    return Doubts(joint, order, likely[order])
