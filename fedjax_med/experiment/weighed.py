"""Asks features of an experiment's images for doubtful labels, alike classes and the source."""

import numpy as np

from fedjax_med.data import feature_cache, groups
from fedjax_med.data.audit import duplicates, evidence, findings, labels, pixel_features, sources
from fedjax_med.data.audit.evidence import Evidence, Features
from fedjax_med.data.audit.findings import Audit
from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.data.metadata import Metadata, known
from fedjax_med.errors import UserError, check_name
from fedjax_med.experiment import frozen
from fedjax_med.experiment.audited import described
from fedjax_med.experiment.config import Experiment

CHOICES = ("auto", "model", "pixels", "none")
_MOST = 20_000  # images; a random part of more, so that it takes seconds
_BLOCK = 256  # images whose features are read at a time


def weighed(
    experiment: Experiment, dataset: Dataset, audit: Audit, cache_dir: str, choice: str
) -> Evidence | None:
    """Compute features of Train without copies, and ask them (`fedjax_med.data.audit.evidence`).

    Args:
        experiment: with the model whose frozen part may make the features, and the table.
        dataset: audited, as `fedjax_med.experiment.audited.audited` returns it.
        audit: of it.
        cache_dir: where the features of the frozen part are kept, which training uses as well.
        choice: ``model``, ``pixels``, ``none``; ``auto``: the model's if it has a
            frozen part and its weights are there, else those of pixels.

    Returns:
        The evidence; None for ``none``.

    Raises:
        UserError: The data cannot be cleaned, or is too little; or there are no such features.
    """
    check_name(choice, CHOICES, "the values of --features")
    if choice == "none":
        return None
    policy = "corrected" if experiment.policy == "corrected" else "rarest"
    united = groups.unite(dataset, audit.train_near, audit.test_near)
    cleaned = labels.cleaned(united, audit, policy)[0]
    split, told = cleaned.train, described(experiment, cleaned)
    if split.num_examples < evidence.LEAST or len(np.unique(split.label)) < 2:
        raise UserError(
            f"expected {evidence.LEAST} different images of two classes or more in Train, got "
            f"{split.num_examples}."
        )
    features, index = _features(experiment, cleaned, cache_dir, choice)
    names = findings.names(split, dataset.clients)
    by_source = None
    if told is not None and experiment.metadata.source:
        of = sources.named(told.train["source"], experiment.metadata.source_prefix)
        by_source = [of[at] for at in index]
    return evidence.weigh(
        features,
        split.label[index],
        _together(split, told)[index],
        [names[at] for at in index],
        dataset.class_names,
        by_source,
        experiment.seed,
    )


def _together(split: Split, told: Metadata | None) -> duplicates.Int32:
    """Number the images of `split`; the same image, group or lesion has the same number."""
    same = groups.numbers(split, duplicates.duplicate_groups(split))
    lesion = np.array(known(told.train.get("lesion", [])) if told else [], np.str_)
    return groups.numbers(split._replace(group=lesion), same) if lesion.size else same


def _features(
    experiment: Experiment, dataset: Dataset, cache_dir: str, choice: str
) -> tuple[Features, list[int]]:
    """Compute the features that `choice` says; return the positions of their images, too."""
    split = dataset.train
    index = np.arange(split.num_examples)
    if len(index) > _MOST:
        drawn = np.random.default_rng(experiment.seed).choice(index, _MOST, replace=False)
        index = np.sort(drawn)
    part = _part(experiment, dataset, choice)
    if isinstance(part, str):
        of = f"statistics of the pixels{part}"
        pixels = pixel_features.statistics(split.image[index])
        return Features(pixels, of, trained=False), index.tolist()
    kept = frozen.of_train(experiment, dataset, part, cache_dir).image
    blocks = [index[at : at + _BLOCK] for at in range(0, len(index), _BLOCK)]
    # The first view is the image as it is.
    values = [pixel_features.of_maps(np.asarray(kept[block, 0])) for block in blocks]
    of = f"of the frozen part of {experiment.model.name} ({experiment.pretrained})"
    return Features(np.concatenate(values), of, trained=True), index.tolist()


def _part(experiment: Experiment, dataset: Dataset, choice: str) -> feature_cache.Part | str:
    """Build the frozen part of the model; if the pixels are to be taken, say why."""
    if choice == "pixels":
        return ""
    try:
        part = frozen.part(experiment, dataset)
    except UserError as error:
        if choice != "auto":
            raise
        return f"; those of the model are not to be had: {error}"
    if part is None and choice == "model":
        raise UserError(
            f"--features=model needs a model with frozen blocks, and {experiment.model.name} has "
            "none: give --features=pixels, or a config of a pretrained model."
        )
    return part or ""
