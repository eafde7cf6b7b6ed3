"""Reads an experiment's data set, corrects its labels, and audits it."""

import dataclasses

from fedjax_med.data import metadata
from fedjax_med.data.audit import diagnoses, labels
from fedjax_med.data.audit.findings import Audit
from fedjax_med.data.corrections import table
from fedjax_med.data.dataset import Dataset
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment


def read(experiment: Experiment, data_dir: str, cache_dir: str) -> Dataset:
    """Read the data set that `experiment` names, prepared as it says.

    Args:
        experiment: names the data set, and says how its images are prepared and kept.
        data_dir: the folder of the images, or "" for a data set that needs none.
        cache_dir: where prepared data is kept.

    Raises:
        UserError: The data is not usable, or the data set is from elsewhere and takes no crop.
    """
    storage, crop = experiment.image_storage, experiment.crop
    usual = crop == "centre"  # data sets from elsewhere need not know of crops
    places = data_dir, cache_dir, experiment.image_size, storage, *([] if usual else [crop])
    dataset: Dataset = components.build("datasets", experiment.dataset, *places)
    return dataset


def audited(experiment: Experiment, data_dir: str, cache_dir: str) -> tuple[Dataset, Audit]:
    """Read the data set, correct its labels if the policy says so, and audit it.

    Args:
        experiment: names the data set, the policy, and the tables of corrections and metadata.
        data_dir: the folder of the images, or "" for a data set that needs none.
        cache_dir: where prepared data is kept.

    Returns:
        The data set, and the audit of its labels as they are now.

    Raises:
        UserError: The data or the table is not usable.
    """
    corrected = experiment.policy == "corrected"
    corrections = table.read(experiment.corrections) if corrected else None
    dataset, audit = labels.audited(read(experiment, data_dir, cache_dir), corrections)
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
