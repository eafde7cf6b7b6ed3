"""Recognises data sets whose published labels a table of this package corrects."""

import contextlib

from fedjax_med.data.corrections import table
from fedjax_med.data.corrections.correct import Changes, correct
from fedjax_med.data.dataset import Dataset
from fedjax_med.data.spelling import folded
from fedjax_med.errors import UserError

# Of the images that a table names, so many are in a data set that it is about, if only in part.
_LEAST = 0.1


def wrong_labels(dataset: Dataset) -> Changes | None:
    """Find the labels of `dataset` that a table of this package would change, and stay as they are.

    Returns:
        The changes by the first table that knows the data set by the names of its images; None if
        there is none, or if every label is right.
    """
    there: set[str] = set()
    for split in (dataset.train, dataset.test):
        there.update(name.rpartition("/")[2].rpartition(".")[0] for name in split.name.tolist())
    classes = set(map(folded, dataset.class_names))
    for name in table.SHIPPED:
        shipped = table.read(name)
        images = {row.image for row in shipped.rows}
        if len(images & there) < _LEAST * len(images):
            continue
        if not {folded(row.label) for row in shipped.rows} <= classes:
            continue  # other classes: it is no copy of that data set
        with contextlib.suppress(UserError):  # the same names for other images
            changes = correct(dataset, shipped)[1]
            if changes.changed:
                return changes._replace(applied=False)
    return None
