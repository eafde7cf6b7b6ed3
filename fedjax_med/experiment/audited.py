"""Corrects the labels of an experiment's data set, and audits it, by the tables that it names."""

import dataclasses
from collections.abc import Callable

from fedjax_med.data import metadata
from fedjax_med.data.audit import diagnoses, labels
from fedjax_med.data.audit.findings import Audit
from fedjax_med.data.corrections import table
from fedjax_med.data.dataset import Dataset
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
    if experiment.metadata.path:
        audit = audit._replace(diagnoses=_diagnoses(experiment, dataset))
    return dataset, audit


def _diagnoses(experiment: Experiment, dataset: Dataset) -> diagnoses.Diagnoses | None:
    """Read the table of metadata, and compare its diagnoses with the classes if it has any."""
    columns = dataclasses.asdict(experiment.metadata)
    path, image = columns.pop("path"), columns.pop("image")
    given = {role: name for role, name in columns.items() if name}
    found = metadata.read(path, image, given, dataset)
    return diagnoses.compare(dataset, found) if "diagnosis" in given else None
