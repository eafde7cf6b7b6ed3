"""The classes that are drawn one by one."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fedjax_med.evaluation.curves import Truths
from fedjax_med.evaluation.metrics import Floats
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, paragraph

MOST = 12


class Drawn(NamedTuple):
    """A class of the predictions.

    number: among all classes.
    name: of the class.
    scores: ``[N]``, its probabilities.
    positive: ``[N]``, which images are of the class.
    operating: its entry in the evaluation's operating points, {} if it has none.
    """

    number: int
    name: str
    scores: Floats
    positive: Truths
    operating: dict[str, Any]

    @property
    def threshold(self) -> float | None:
        """Return the threshold of its operating point, in single precision, if it has one.

        Raises:
            ValueError: It is no probability.
        """
        found = self.operating.get("threshold")
        if found is None:
            return None
        if not 0 <= found <= 1:
            raise ValueError(f"expected a threshold from 0 to 1, got {found}")
        return float(np.float32(found))  # as an image is called by it


def drawn(run: Run) -> Iterator[Drawn]:
    """Yield at most 12 classes that some test images are of and some are not.

    Those with operating points come first, then the larger ones.
    """
    assert run.predicted is not None
    asked = run.evaluation.get("operating", {}).get("classes", {})
    label, probabilities = run.predicted.label, run.predicted.probabilities
    support = np.bincount(label, minlength=len(run.class_names))
    names = run.class_names
    usable = [k for k in range(len(names)) if 0 < support[k] < len(label)]
    usable.sort(key=lambda k: (names[k] not in asked, -support[k], k))
    for k in usable[:MOST]:
        scores = probabilities[:, k].astype(np.float64)
        yield Drawn(k, names[k], scores, label == k, asked.get(names[k], {}))


def remark(run: Run) -> list[Markup]:
    """Say how many classes are drawn, where these are not all."""
    total = len(run.class_names)
    if total <= MOST:
        return []
    return [paragraph(f"Of {total} classes, at most {MOST} are drawn: those with most images.")]
