"""From an experiment to its data: read, audit, partition, hold out."""

import hashlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.core.types import Dataset, Model, Split
from fedjax_med.data import client_data, feature_cache, splits
from fedjax_med.data.audit import duplicates
from fedjax_med.data.audit import findings as audit
from fedjax_med.data.partitions import Groups, Index
from fedjax_med.errors import UserError, check_name
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec

_NAMED = 20  # clients that the summary names


class Federation(NamedTuple):
    """The data of a federation, on the host."""

    class_names: tuple[str, ...]
    train: client_data.Held
    validation: client_data.Held
    test: Split
    digest: str  # of what the clients train on and validate with
    test_digest: str  # of the test images and their labels
    findings: audit.Audit
    summary: str  # what the audit and its policy did, in one line
    names: tuple[str, ...]  # C, of the clients; () where they have none
    sites: tuple[str, ...]  # of those that the test images' `client` counts


class Division(NamedTuple):
    """A cleaned data set, and who holds what of its train split."""

    dataset: Dataset
    groups: npt.NDArray[np.int32]  # [N], duplicates share a number
    parts: list[npt.NDArray[np.int64]]  # C arrays of positions
    findings: audit.Audit
    summary: str  # what the audit and its policy did, in one line
    names: tuple[str, ...]  # C, of the sites; () where the clients have none


def divide(experiment: Experiment, data_dir: str, cache_dir: str) -> Division:
    """Read the data set, apply the audit's policy and divide it among the clients.

    Args:
        experiment: names the data set, the policy, the partition and the seed.
        data_dir: the folder of the images, or "" for a data set that needs none.
        cache_dir: where prepared data is kept.

    Raises:
        UserError: The data or the division is not usable.
    """
    dataset: Dataset = components.build(
        "datasets",
        experiment.dataset,
        data_dir,
        cache_dir,
        experiment.image_size,
        experiment.images,
    )
    findings = audit.find(dataset)
    dataset, summary = audit.clean(dataset, findings, experiment.policy)
    split, spec = dataset.train, experiment.partition
    groups = duplicates.duplicate_groups(split)
    divide = partitioner(spec, experiment.num_clients, experiment.seed)
    parts = splits.partition(split, groups, divide, experiment.num_clients)
    names: tuple[str, ...] = ()
    if (split.client >= 0).any():
        summary += " Divided by their client folders, not by --config.partition."
    else:
        names = client_names(split, spec)
    if names:
        named = ", ".join(f"{client} is {name}" for client, name in enumerate(names[:_NAMED]))
        named += f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        summary += f" Clients: {named}."
    return Division(dataset, groups, parts, findings, summary, names)


def partitioner(spec: Spec, num_clients: int, seed: int) -> Callable[[Split, Groups], list[Index]]:
    """Give the function from (split, groups) to each client's positions that `spec` names."""
    return lambda split, groups: components.build(
        "partitions", spec, split, groups, num_clients, seed
    )


def client_names(split: Split, spec: Spec) -> tuple[str, ...]:
    """Tell what the partition calls its clients, in their order; () if it only numbers them."""
    name = components.module("partitions", spec.name).__dict__.get("client_names")
    return tuple(name(split, **spec.options)) if name else ()


def load(experiment: Experiment, data_dir: str, cache_dir: str) -> Federation:
    """`divide` the data set, leave out the fold, hold out each client's validation part.

    Args:
        experiment: names the data set, the policy, the partition and the seed.
        data_dir: the folder of the images, or "" for a data set that needs none.
        cache_dir: where prepared data is kept.

    Raises:
        UserError: The data or the division is not usable.
    """
    if not 0 <= experiment.validation_fraction < 1:
        raise UserError(
            "expected --config.validation_fraction in [0, 1), got "
            f"{experiment.validation_fraction}."
        )
    dataset, groups, clients, findings, summary, names = divide(experiment, data_dir, cache_dir)
    dataset, below = _through_frozen(experiment, dataset, cache_dir)
    split, seed, test = dataset.train, experiment.seed, dataset.test
    if experiment.folds:
        test, clients = _leave_out_fold(experiment, split, groups, clients)
        summary += f" Fold {experiment.fold} of {experiment.folds} is the test set."
    parts = [
        splits.hold_out(split, groups, index, experiment.validation_fraction, seed, client)
        for client, index in enumerate(clients)
    ]
    parts, training = _in_setting(experiment, parts, names)
    of = f"{experiment.image_size} {dataset.class_names}{below}"
    return Federation(
        dataset.class_names,
        client_data.Held(split, tuple(train for train, _ in parts)),
        client_data.Held(split, tuple(validation for _, validation in parts)),
        test,
        _digest(split, (index for pair in parts for index in pair), of),
        _digest(test, [np.arange(test.num_examples)], of),
        findings,
        summary,
        training,
        names,
    )


def _through_frozen(
    experiment: Experiment, dataset: Dataset, cache_dir: str
) -> tuple[Dataset, str]:
    """`dataset` with what the frozen part of the model makes of each image, and its digest.

    The images themselves, and no digest, where nothing is frozen.
    """
    model: Model = components.build("models", experiment.model, len(dataset.class_names))
    if model.frozen is None:
        return dataset, ""
    below = model.frozen._replace(colour_constancy=experiment.colour_constancy)
    part = feature_cache.part(below, experiment.pretrained, dataset.train.image.shape[1:])
    train = feature_cache.features(dataset.train, part, cache_dir, experiment.augment)
    # Cross-validation has its test images from Train.
    test = (
        dataset.test if experiment.folds else feature_cache.features(dataset.test, part, cache_dir)
    )
    return dataset._replace(train=train, test=test), part.digest


def _leave_out_fold(
    experiment: Experiment, split: Split, groups: Groups, clients: list[Index]
) -> tuple[Split, list[Index]]:
    """The examples of the fold, of which each says whose they are, and what the clients keep.

    Raises:
        UserError: There is no such fold, or a client keeps nothing.
    """
    folds, fold = experiment.folds, experiment.fold
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(
            "expected --config.folds >= 2 (or 0: no cross-validation) and --config.fold from 0 to "
            f"folds - 1, got folds={folds} and fold={fold}."
        )
    out = np.zeros(split.num_examples, bool)
    out[splits.folds(split, groups, folds, experiment.seed)[fold]] = True
    owner = np.empty(split.num_examples, np.int32)
    for client, part in enumerate(clients):
        owner[part] = client
    kept = [part[~out[part]] for part in clients]
    empty = [client for client, part in enumerate(kept) if not part.size]
    if empty:
        raise UserError(
            f"client {empty[0]} has no image outside of fold {fold} of {folds}: choose more "
            "--config.folds or fewer --config.num_clients."
        )
    return split.take(out)._replace(client=owner[out]), kept


def _in_setting(
    experiment: Experiment, parts: list[tuple[Index, Index]], names: tuple[str, ...]
) -> tuple[list[tuple[Index, Index]], tuple[str, ...]]:
    """Who trains with what and validates with what in the experiment's setting, and their names.

    Raises:
        UserError: There is no such setting or hospital.
    """
    setting, hospital = experiment.setting, experiment.hospital
    check_name(setting, ("federated", "pooled", "local"), "the settings")
    if setting == "pooled":
        train, validation = (np.sort(np.concatenate(each)) for each in zip(*parts, strict=True))
        return [(train, validation)], ()
    if setting == "local":
        if not 0 <= hospital < len(parts):
            raise UserError(
                f"expected --config.hospital from 0 to {len(parts) - 1}, got {hospital}."
            )
        return [parts[hospital]], names[hospital : hospital + 1]
    return parts, names


def _digest(split: Split, parts: Iterable[npt.NDArray[np.int64]], of: str) -> str:
    """SHA-256 over the images and labels of `parts`, and over what they are part `of`."""
    total = hashlib.sha256(of.encode())
    for part in parts:
        total.update(f"{len(part)};".encode())
        total.update(split.label[part].tobytes())
        total.update("".join(split.sha256[part].tolist()).encode())
    return total.hexdigest()
