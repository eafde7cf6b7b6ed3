"""From an experiment to its data: read, audit, partition, hold out."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med import audit, duplicates, partition, shelves, stack
from fedjax_med.config import Experiment
from fedjax_med.errors import UserError
from fedjax_med.types import Dataset, Split

_NAMED = 20  # clients that the summary names


class Federation(NamedTuple):
    """The data of a federation, on the host."""

    class_names: tuple[str, ...]
    train: stack.Held
    validation: stack.Held
    test: Split
    digest: str  # of what the clients train on and validate with
    test_digest: str  # of the test images and their labels
    findings: audit.Audit
    summary: str  # what the audit and its policy did, in one line
    names: tuple[str, ...]  # C, of the sites; () where the clients have none


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
    dataset: Dataset = shelves.build(
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
    parts = partition.partition(split, groups, spec, experiment.num_clients, experiment.seed)
    names: tuple[str, ...] = ()
    if (split.client >= 0).any():
        summary += " Divided by their client folders, not by --config.partition."
    else:
        names = partition.client_names(split, spec)
    if names:
        named = ", ".join(f"{client} is {name}" for client, name in enumerate(names[:_NAMED]))
        named += f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        summary += f" Clients: {named}."
    return Division(dataset, groups, parts, findings, summary, names)


def load(experiment: Experiment, data_dir: str, cache_dir: str) -> Federation:
    """`divide` the data set and hold out each client's validation part.

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
    split, seed = dataset.train, experiment.seed
    parts = [
        partition.hold_out(split, groups, index, experiment.validation_fraction, seed, client)
        for client, index in enumerate(clients)
    ]
    of = f"{experiment.image_size} {dataset.class_names}"
    return Federation(
        dataset.class_names,
        stack.Held(split, tuple(train for train, _ in parts)),
        stack.Held(split, tuple(validation for _, validation in parts)),
        dataset.test,
        _digest(split, (index for pair in parts for index in pair), of),
        _digest(dataset.test, [np.arange(dataset.test.num_examples)], of),
        findings,
        summary,
        names,
    )


def _digest(split: Split, parts: Iterable[npt.NDArray[np.int64]], of: str) -> str:
    """SHA-256 over the images and labels of `parts`, and over what they are part `of`."""
    total = hashlib.sha256(of.encode())
    for part in parts:
        total.update(f"{len(part)};".encode())
        total.update(split.label[part].tobytes())
        total.update("".join(split.sha256[part].tolist()).encode())
    return total.hexdigest()
