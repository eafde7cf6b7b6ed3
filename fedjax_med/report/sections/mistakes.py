"""The mistakes that the model was most certain of."""

import numpy as np

from fedjax_med.evaluation.predictions import NAME
from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Section, joined, paragraph, table

READS = NAME
_MOST = 20
_TEXT = (
    "Mistakes of great certainty are worth a look: some are wrong labels. This report holds the "
    "names of files, and no photographs; if names of files tell who somebody is, so does it."
)


def build(run: Run) -> Section | None:
    """List the mistakes, the most certain first; None without predictions."""
    if run.predicted is None:
        return None
    image, client, label, probabilities = run.predicted
    guess, rows = probabilities.argmax(axis=1), np.arange(len(label))
    certain = probabilities[rows, guess]
    wrong = np.flatnonzero(guess != label)
    # Images of equal certainty by name, so that their order says nothing.
    shown = wrong[np.lexsort((image[wrong], -certain[wrong]))][:_MOST]
    each = [
        (
            str(image[i]),
            str(client[i]) if client[i] >= 0 else "-",
            run.class_names[label[i]],
            run.class_names[guess[i]],
            f"{certain[i]:.3f}",
            f"{probabilities[i, label[i]]:.3f}",
        )
        for i in shown
    ]
    header = ("image", "hospital", "true class", "predicted", "its probability", "of the true one")
    caption = f"The {len(each)} most certain of {len(wrong)} mistakes on {len(label)} test images"
    body = table(caption, header, each) if each else paragraph("No test image is predicted wrong.")
    return Section("The most certain mistakes", joined(body, paragraph(_TEXT)))
