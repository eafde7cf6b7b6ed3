"""Class probabilities of images by a discriminant that was fitted without them.

A linear discriminant needs no tuning and takes seconds, so that an audit can ask what some features
of the images tell of their classes. Its covariance is pooled over the classes and shrunk by the
rule of Ledoit and Wolf (Journal of Multivariate Analysis 2004), as there may be more features than
images. All classes have the same prior probability.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer]

_LEAST = 1e-9  # variance of features, 1 in all images, that do not differ within any class


class Discriminant(NamedTuple):
    """Linear scores of K classes: logarithms of their densities, up to a common constant."""

    mean: Floats  # [D] of the features
    scale: Floats  # [D]
    coefficients: Floats  # [D, K]
    intercepts: Floats  # [K]; -inf for a class without images

    def scores(self, features: npt.NDArray[np.floating]) -> Floats:
        """Compute the scores of features ``[N, D]``: ``[N, K]``."""
        standard = (features - self.mean) / self.scale
        return np.asarray(standard @ self.coefficients + self.intercepts)


def fit(
    features: npt.NDArray[np.floating],
    labels: Integers,
    num_classes: int,
    shrinkage: float | None = None,
) -> Discriminant:
    """Fit a discriminant to standardised features.

    Args:
        features: ``[N, D]``, finite.
        labels: ``[N]``.
        num_classes: K; a class without images gets no probability.
        shrinkage: in [0, 1], of the covariance; None: by Ledoit and Wolf's rule.
    """
    features = np.asarray(features, np.float64)
    mean: Floats = np.asarray(features.mean(axis=0), np.float64)
    scale: Floats = np.asarray(features.std(axis=0), np.float64)
    # Features that are all equal have a deviation of rounding errors, or of 0.
    scale[scale <= 1e-12 * np.abs(mean)] = np.inf
    standard = (features - mean) / scale
    sizes = np.bincount(labels, minlength=num_classes)
    member = np.zeros((num_classes, len(labels)))
    member[labels, np.arange(len(labels))] = 1
    means = (member @ standard) / np.maximum(sizes, 1)[:, None]
    within = standard - means[labels]
    # Of two matrices with the same positive eigenvalues, the smaller.
    inner = within.T @ within if within.shape[1] <= len(within) else within @ within.T
    share = ledoit_wolf(within, inner) if shrinkage is None else shrinkage
    coefficients = _solved(within, inner, means.T, share)
    intercepts = -0.5 * np.einsum("kd,dk->k", means, coefficients)
    return Discriminant(mean, scale, coefficients, np.where(sizes > 0, intercepts, -np.inf))


def ledoit_wolf(centred: Floats, inner: Floats) -> float:
    """Estimate how much to shrink a covariance towards the identity times its mean variance.

    Args:
        centred: ``[N, D]``, of mean 0; the covariance is the mean of their outer products.
        inner: their inner products over images ``[D, D]`` or over features ``[N, N]``.

    Returns:
        The share of the identity, in [0, 1].
    """
    size, width = centred.shape
    squares = float(np.sum(inner**2)) / size**2  # of the covariance's entries
    mean = float(np.trace(inner)) / size / width
    distance = squares - width * mean**2  # of the covariance from the identity's multiple
    error = (float(np.sum(np.sum(centred**2, axis=1) ** 2)) / size - squares) / size
    return float(np.clip(error / distance, 0, 1)) if distance > 0 else 1.0


def _solved(centred: Floats, inner: Floats, right: Floats, share: float) -> Floats:
    """Solve by the shrunk covariance of `centred` ``[N, D]``: ``[D, K]`` to ``[D, K]``.

    `inner` is as for `ledoit_wolf`.
    """
    size, width = centred.shape
    kept = (1 - share) / size
    floor = max(share * float(np.trace(inner)) / size / width, _LEAST)
    if width <= size:
        return np.asarray(np.linalg.solve(kept * inner + floor * np.eye(width), right))
    # By Woodbury's identity the matrix to solve has a row for each image, not for each feature.
    solved = np.linalg.solve(kept * inner + floor * np.eye(size), kept * (centred @ right))
    return np.asarray((right - centred.T @ solved) / floor)


def fold_of(labels: Integers, groups: Integers, folds: int, seed: int) -> Integers:
    """Deal the groups into folds, class by class and the large ones first: ``[N]``.

    Args:
        labels: ``[N]``; a group of several classes is dealt with the class of its first image.
        groups: ``[N]``, numbers; those that share one go to one fold.
        folds: how many there are.
        seed: of the order among groups of one size.
    """
    _, first, inverse, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    random = np.random.default_rng(seed).permutation(len(first))
    order = np.lexsort((random, -sizes, labels[first]))
    dealt = np.empty(len(first), np.intp)
    dealt[order] = np.arange(len(first)) % folds
    return np.asarray(dealt[inverse])


def out_of_fold_logs(
    features: npt.NDArray[np.floating], labels: Integers, groups: Integers, folds: int, seed: int
) -> Floats:
    """Compute the logarithms of `out_of_fold`: ``[N, K]``; -inf for a class without images."""
    fold, num_classes = fold_of(labels, groups, folds, seed), int(labels.max()) + 1
    found = np.zeros((len(labels), num_classes))
    for number in range(folds):
        out = fold == number
        if not out.any() or out.all():
            continue
        scores = fit(features[~out], labels[~out], num_classes).scores(features[out])
        scores -= scores.max(axis=1, keepdims=True)
        found[out] = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return found


def out_of_fold(
    features: npt.NDArray[np.floating], labels: Integers, groups: Integers, folds: int, seed: int
) -> Floats:
    """Compute each image's class probabilities by a discriminant of the other folds.

    Args:
        features: float ``[N, D]``, finite; standardised by the images that are fitted to.
        labels: ``[N]``, from 0.
        groups: ``[N]``, numbers; images that share one are in one fold.
        folds: how many there are.
        seed: of the folds.

    Returns:
        ``[N, K]``, with rows of sum 1.
    """
    return np.exp(out_of_fold_logs(features, labels, groups, folds, seed))
