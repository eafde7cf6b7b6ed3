"""Loads an experiment's data: reads, audits, partitions and holds out validation parts."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data import digests, groups, splits
from fedjax_med.data.audit import diagnoses, duplicates, labels, serious
from fedjax_med.data.audit.findings import Audit
from fedjax_med.data.client_data import ClientData
from fedjax_med.data.corrections import report as corrections
from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.data.federation import Federation
from fedjax_med.data.images.folders import Source
from fedjax_med.data.partitions import Groups, Index
from fedjax_med.errors import UserError, printable
from fedjax_med.experiment import components, frozen, resolve
from fedjax_med.experiment.audited import audited
from fedjax_med.experiment.config import Experiment, Spec

_NAMED = 20  # at most so many clients are named in the summary


class Division(NamedTuple):
    """A cleaned data set and the division of its train split among the clients."""

    dataset: Dataset
    groups: npt.NDArray[np.int32]  # [N], duplicates and images of a group share a number
    parts: list[npt.NDArray[np.int64]]  # C arrays of positions in the split
    findings: Audit
    summary: str  # results of the audit and its policy, in one line
    names: tuple[str, ...]  # C names of the sites; () if the clients have none


def read(experiment: Experiment, data_dir: str, cache_dir: str) -> Dataset:
    """Read the data set that `experiment` names, prepared as it says.

    Args:
        experiment: names the data set, and says how its images are prepared and kept.
        data_dir: the folder of the images, or "" for a data set that needs none.
        cache_dir: where prepared data is kept.

    Raises:
        UserError: The data is not usable, or the data set is from elsewhere and takes no crop; or
            the table of groups is not.
    """
    of = experiment.groups
    table = groups.Table(of.path, of.column, of.image) if of.path else None  # before the images
    storage, crop = experiment.image_storage, experiment.crop
    usual = crop == "centre"  # data sets from elsewhere need not know of crops
    places = data_dir, cache_dir, experiment.image_size, storage, *([] if usual else [crop])
    dataset: Dataset = components.build("datasets", experiment.dataset, *places)
    return table.label(dataset) if table else dataset


def count_clients(experiment: Experiment, data_dir: str) -> Experiment:
    """Take the number of clients from the data if it is left open, else compare; read no image.

    Args:
        experiment: completed; its number of clients is 0 if it is left open.
        data_dir: the folder of the images, or "".

    Raises:
        UserError: The folder or the table of sites is not usable, or there are more or fewer client
            folders than the experiment's clients.
    """
    spec, names = experiment.partition, list[str]()
    if source := listed(experiment.dataset, data_dir):
        if source.clients:
            splits.check_clients(len(source.clients), experiment.num_clients)
            return resolve.with_clients(experiment, len(source.clients))
        names = [file.name for file in source.files if file.split == "train"]
    if count := components.module("partitions", spec.name).__dict__.get("count_clients"):
        found = count(names, **spec.options)
        if experiment.num_clients and not names:  # the table may list other images as well
            return experiment
        if experiment.num_clients not in (0, found):
            raise UserError(
                f"the table of {spec.name} has {found} sites of the images, but num_clients is "
                f"{experiment.num_clients}: set --config.num_clients={found} or leave it out."
            )
        return resolve.with_clients(experiment, found)
    if experiment.num_clients:
        return experiment
    return resolve.with_clients(experiment, resolve.USUAL_CLIENTS)


def listed(dataset: Spec, data_dir: str) -> Source | None:
    """List the image files of a data set by its function ``scan``; None if it has none.

    Args:
        dataset: names it, and has its options, of which `scan` gets those that it takes.
        data_dir: the folder of the images.

    Raises:
        UserError: The folder is not usable.
    """
    scan = components.module("datasets", dataset.name).__dict__.get("scan")
    if scan is None:
        return None
    taken = inspect.signature(scan).parameters.keys() & dataset.options.keys()
    source: Source = scan(data_dir, **{name: dataset.options[name] for name in taken})
    return source


def check_local_client(experiment: Experiment, number: int) -> None:
    """Refuse to train a client alone that is none of the `number` of clients.

    Raises:
        UserError: There is no such client.
    """
    client = experiment.local_client
    if experiment.setting == "local" and not 0 <= client < number:
        raise UserError(f"expected --config.local_client from 0 to {number - 1}, got {client}.")


def divide(experiment: Experiment, data_dir: str, cache_dir: str) -> Division:
    """Read the data set, apply the audit's policy and divide it among the clients.

    Args:
        experiment: names the data set, the policy, the partition and the seed.
        data_dir: the folder of the images, or "" for a data set that needs none.
        cache_dir: where prepared data is kept.

    Raises:
        UserError: The data or the division is not usable.
    """
    if not experiment.num_clients:
        experiment = count_clients(experiment, data_dir)
    reading = functools.partial(read, experiment, data_dir, cache_dir)
    dataset, findings = audited(experiment, reading)
    dataset = groups.unite(dataset, findings.train_near, findings.test_near)
    dataset, findings, summary = labels.cleaned(dataset, findings, experiment.policy)
    if dataset.groups is not None and experiment.groups.in_test == "drop":
        dataset, left = groups.drop_in_test(dataset)
        summary += left
    split, spec = dataset.train, experiment.partition
    same = duplicates.duplicate_groups(split)
    together = groups.numbers(split, same)
    divide = partitioner(spec, experiment.num_clients, experiment.seed)
    parts = splits.partition(split, together, divide, experiment.num_clients, same)
    names: tuple[str, ...] = ()
    if (split.client >= 0).any():
        what = (
            "the sites of the table"
            if experiment.dataset.options.get("site")
            else "their client folders"
        )
        summary += f" Divided by {what}, not by --config.partition."
        names = dataset.client_names()
    else:
        names = client_names(split, spec)
    if names:
        named = ", ".join(
            f"{client} is {printable(name)}" for client, name in enumerate(names[:_NAMED])
        )
        named += f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        summary += f" Clients: {named}."
    return Division(dataset, together, parts, findings, summary, names)


def partitioner(spec: Spec, num_clients: int, seed: int) -> Callable[[Split, Groups], list[Index]]:
    """Build the function from (split, groups) to each client's positions that `spec` names."""
    return lambda split, groups: components.build(
        "partitions", spec, split, groups, num_clients, seed
    )


def client_names(split: Split, spec: Spec) -> tuple[str, ...]:
    """Return the clients' names in the partition, in their order; () if it only numbers them."""
    name = components.module("partitions", spec.name).__dict__.get("client_names")
    return tuple(name(split, **spec.options)) if name else ()


def load(experiment: Experiment, data_dir: str, cache_dir: str) -> Federation:
    """Divide the data set, leave out the fold, and hold out each client's validation part.

    Args:
        experiment: names the data set, the policy, the partition and the seed.
        data_dir: the folder of the images, or "" for a data set that needs none.
        cache_dir: where prepared data is kept.

    Raises:
        UserError: The data or the division is not usable.
    """
    dataset, together, clients, findings, summary, names = divide(experiment, data_dir, cache_dir)
    dataset, below = frozen.through(experiment, dataset, cache_dir)
    split, seed, test = dataset.train, experiment.seed, dataset.test
    if experiment.folds:
        test, clients = _leave_out_fold(experiment, split, dataset.class_names, together, clients)
        summary += f" Fold {experiment.fold} of {experiment.folds} is the test set."
    parts = [
        splits.hold_out(split, together, index, experiment.validation_fraction, seed, client)
        for client, index in enumerate(clients)
    ]
    mates, in_test = _mates(split, clients, test)
    parts, training = _in_setting(experiment, parts, names)
    train, validation = (ClientData(split, each) for each in zip(*parts, strict=True))
    wanted = validation if experiment.validation_fraction else None
    summary += serious.sentence(findings, train, wanted, training, in_test)
    summary += diagnoses.sentence(findings.diagnoses)
    if warned := corrections.warning(findings.corrections):
        summary += f"\n{warned}"
    of = f"{experiment.image_size} {dataset.class_names}{below}"
    of += frozen.preparation(experiment, dataset)
    if findings.corrections is not None and findings.corrections.applied:
        of += f" corrections {findings.corrections.sha256}"
    return Federation(
        dataset.class_names,
        train,
        validation,
        test,
        digests.digest(split, (index for pair in parts for index in pair), of),
        digests.digest(test, [np.arange(test.num_examples)], of),
        digests.files_and_labels(split if experiment.folds else test, dataset.class_names),
        findings,
        summary,
        training,
        names,
        mates,
    )


def _mates(
    split: Split, clients: list[Index], test: Split
) -> tuple[npt.NDArray[np.bool_] | None, list[str]]:
    """Return which test images are of a group in Train, and the training images of one in Test."""
    if split.group is None or test.group is None:
        return None, []
    train = np.sort(np.concatenate(clients))
    known, names = split.group[train], split.name[train]
    return groups.also_in(test.group, known), names[groups.also_in(known, test.group)].tolist()


def _leave_out_fold(
    experiment: Experiment,
    split: Split,
    class_names: tuple[str, ...],
    groups: Groups,
    clients: list[Index],
) -> tuple[Split, list[Index]]:
    """Return the fold's examples, each with its client, and the positions that clients keep.

    Raises:
        UserError: A client keeps nothing.
    """
    folds, fold = experiment.folds, experiment.fold
    out = np.zeros(split.num_examples, bool)
    out[splits.folds(split, groups, folds, experiment.seed, class_names)[fold]] = True
    owner = np.empty(split.num_examples, np.int32)
    for client, part in enumerate(clients):
        owner[part] = client
    kept = [part[~out[part]] for part in clients]
    empty = [client for client, part in enumerate(kept) if not part.size]
    if empty:
        raise UserError(
            f"client {empty[0]} has no image outside of fold {fold} of {folds}: choose more "
            "--config.folds (crossvalidate and compare: --folds) or fewer --config.num_clients."
        )
    return split.take(out)._replace(client=owner[out]), kept


def _in_setting(
    experiment: Experiment, parts: list[tuple[Index, Index]], names: tuple[str, ...]
) -> tuple[list[tuple[Index, Index]], tuple[str, ...]]:
    """Return the (training, validation) parts in the experiment's setting, and the clients' names.

    Raises:
        UserError: As in `check_local_client`.
    """
    setting, client = experiment.setting, experiment.local_client
    if setting == "centralized":
        train, validation = (np.sort(np.concatenate(each)) for each in zip(*parts, strict=True))
        return [(train, validation)], ()
    if setting == "local":
        check_local_client(experiment, len(parts))
        return [parts[client]], names[client : client + 1]
    return parts, names
