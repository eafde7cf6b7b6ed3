"""Audits a data set under its right labels: corrected by a table, or known to be wrong."""

from fedjax_med.data.audit.findings import Audit, clean, find
from fedjax_med.data.corrections import report
from fedjax_med.data.corrections.correct import correct
from fedjax_med.data.corrections.known import wrong_labels
from fedjax_med.data.corrections.table import Corrections
from fedjax_med.data.dataset import Dataset


def audited(dataset: Dataset, table: Corrections | None) -> tuple[Dataset, Audit]:
    """Correct the labels by `table`, or find those known to be wrong without it; audit both.

    Raises:
        UserError: The table does not fit the data set.
    """
    if table is None:
        return dataset, find(dataset)._replace(corrections=wrong_labels(dataset))
    dataset, changes = correct(dataset, table)
    return dataset, find(dataset)._replace(corrections=changes)


def cleaned(dataset: Dataset, audit: Audit, policy: str) -> tuple[Dataset, Audit, str]:
    """Clean an audited data set, as `clean`.

    Returns:
        The cleaned data set; `audit`, in which labels that are known to be wrong are those that are
        left; one line that reports the changes.

    Raises:
        UserError: As in `fedjax_med.data.audit.findings.clean`.
    """
    dataset, line = clean(dataset, audit, policy)
    if audit.corrections is None:
        return dataset, audit, line
    if not audit.corrections.applied:
        return dataset, audit._replace(corrections=wrong_labels(dataset)), line
    return dataset, audit, line + report.sentence(audit.corrections)
