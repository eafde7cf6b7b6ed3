"""The frozen part of an experiment's model, and what it makes of the images."""

import hashlib

from fedjax_med.client.views import ORDER, needed
from fedjax_med.core.model import Model
from fedjax_med.data import feature_cache
from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.data.feature_cache import Part
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment


def preparation(experiment: Experiment, dataset: Dataset) -> str:
    """Describe what besides the files decides the pixels; "" for 8 bits and the usual crop."""
    crop = f" {experiment.crop}" if experiment.crop != "centre" else ""
    levels = [text for text, _ in dataset.levels]
    return crop + (f" {levels}" if levels else "")


def part(experiment: Experiment, dataset: Dataset) -> Part | None:
    """Build the frozen part of the model, with its weights; None if nothing is frozen.

    Raises:
        UserError: There are no such weights.
    """
    model: Model = components.build("models", experiment.model, len(dataset.class_names))
    if model.frozen is None:
        return None
    below = model.frozen._replace(colour_constancy=experiment.colour_constancy)
    found = feature_cache.part(below, experiment.pretrained, dataset.train.image.shape[1:])
    if prepared := preparation(experiment, dataset):  # the cache knows images by their files
        digest = hashlib.sha256(f"{found.digest}{prepared}".encode()).hexdigest()
        return found._replace(digest=digest)
    return found


def through(experiment: Experiment, dataset: Dataset, cache_dir: str) -> tuple[Dataset, str]:
    """Replace the images by the features of the model's frozen part; return its digest, too.

    Keeps the images, with an empty digest, if nothing is frozen.
    """
    if (found := part(experiment, dataset)) is None:
        return dataset, ""
    train = of_train(experiment, dataset, found, cache_dir)
    test = dataset.test
    if not experiment.folds:  # cross-validation takes its test images from Train
        test = feature_cache.features(test, found, cache_dir, views=ORDER[: experiment.tta_views])
    return dataset._replace(train=train, test=test), found.digest


def of_train(experiment: Experiment, dataset: Dataset, frozen: Part, cache_dir: str) -> Split:
    """Replace the images of Train by their features, of all views that a run uses."""
    changes = experiment.augment
    views = needed(changes, experiment.tta_views)
    return feature_cache.features(dataset.train, frozen, cache_dir, changes, views)
