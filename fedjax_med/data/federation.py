"""The data of a federation: the clients' examples and the test set."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data import client_data
from fedjax_med.data.audit.findings import Audit
from fedjax_med.data.dataset import Split


class Federation(NamedTuple):
    """The data of a federation, on the host."""

    class_names: tuple[str, ...]
    train: client_data.ClientData
    validation: client_data.ClientData
    test: Split
    digest: str  # of the clients' training and validation examples
    test_digest: str  # of the test images, how they are prepared, and their labels
    test_set: str  # of the files tested on, by all folds if there are any; "" without test images
    findings: Audit
    # One line: what the audit's policy changed, and serious findings. A second one warns of labels
    # that are known to be wrong.
    summary: str
    names: tuple[str, ...]  # C names of the clients; () if they have none
    sites: tuple[str, ...]  # site names, indexed by the test images' `client`
    # [M], the test images whose group Train has images of; None: the images have no groups
    mates: npt.NDArray[np.bool_] | None = None

    @property
    def class_counts(self) -> npt.NDArray[np.int64]:
        """Count the training examples of each class over all clients: ``[K]``."""
        each = client_data.class_counts(self.train, len(self.class_names))
        counts: npt.NDArray[np.int64] = each.sum(axis=0)
        return counts
