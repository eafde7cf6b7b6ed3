"""Corrects the labels of an experiment's data set, and audits it, by the tables that it names."""

import dataclasses
from collections.abc import Callable

import numpy as np

from fedjax_med.data import metadata
from fedjax_med.data.audit import diagnoses, findings, labels, lesions, sources
from fedjax_med.data.audit.findings import Audit
from fedjax_med.data.corrections import table
from fedjax_med.data.dataset import Dataset
from fedjax_med.data.metadata import Metadata
from fedjax_med.experiment.config import Experiment


def audited(experiment: Experiment, read: Callable[[], Dataset]) -> tuple[Dataset, Audit]:
    """Read the data set, correct its labels if the policy says so, and audit it.

    Args:
        experiment: names the policy, and the tables of corrections and metadata.
        read: reads the data set; not called if the table of corrections cannot be read.

    Returns:
        The data set, and the audit of its labels as they are now.

    Raises:
        UserError: The data or the table is not usable.
    """
    corrected = experiment.policy == "corrected"
    corrections = table.read(experiment.corrections) if corrected else None
    dataset, audit = labels.audited(read(), corrections)
    if (found := described(experiment, dataset)) is not None:
        audit = _compared(experiment, dataset, audit, found)
    return dataset, audit


def described(experiment: Experiment, dataset: Dataset) -> Metadata | None:
    """Read what the table of metadata says of the images of `dataset`; None without a table.

    Raises:
        UserError: As in `fedjax_med.data.metadata.read`.
    """
    columns = dataclasses.asdict(experiment.metadata)
    path, image = columns.pop("path"), columns.pop("image")
    del columns["source_prefix"]
    given = {role: name for role, name in columns.items() if name}
    return metadata.read(path, image, given, dataset) if path else None


def _compared(experiment: Experiment, dataset: Dataset, audit: Audit, found: Metadata) -> Audit:
    """Compare diagnoses, sources and lesions, of those that the table has, with the classes."""
    of = experiment.metadata
    if of.diagnosis:
        audit = audit._replace(diagnoses=diagnoses.compare(dataset, found))
    if of.source:
        by_source = sources.find(dataset, found, of.source_prefix, of.source)
        audit = audit._replace(sources=by_source)
    if of.lesion and dataset.groups is None:
        near = np.concatenate([audit.train_near, audit.test_near])
        names = [
            one
            for of in (dataset.train, dataset.test)
            for one in findings.names(of, dataset.clients)
        ]
        several = lesions.find(dataset, found, of.lesion, of.image, near, names)
        audit = audit._replace(lesions=several)
    return audit
