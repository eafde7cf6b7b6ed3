"""What is promised of privacy."""

from typing import Any

from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Markup, Section, joined, paragraph, tag

READS = "evaluation.json"
_NONE = (
    "No epsilon is promised: of this model, and of the updates that it was trained by, training "
    "images may be inferred. That images stay with their hospitals is no such promise."
)
_MEANING = {
    "client": "of a whole hospital: whether it took part, with all of its images",
    "example": "of a single training image; somebody of whom there are several has less protection",
}


def build(run: Run) -> Section | None:
    """State the epsilon spent, or that none is promised; None for a comparison."""
    if run.comparison:
        return None
    spent = _spent(run)
    if spent is None:
        text: Markup = paragraph(tag("strong", _NONE))
    elif spent["epsilon"] is None:
        text = paragraph(tag("strong", "Epsilon is infinite: the noise protects nobody. ", _NONE))
    else:
        text = paragraph(
            tag("strong", f"Epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}"),
            f" is the guarantee {_MEANING.get(spent['unit'], spent['unit'])}. Noise multiplier "
            f"{spent['noise_multiplier']:.4g}, after all rounds that were trained.",
        )
    return Section("Privacy", joined(text, *_noise(run)))


def _noise(run: Run) -> list[Markup]:
    """Say that the guarantee is void, where the noise can be computed."""
    settings = run.experiment.privacy if run.experiment else None
    if settings is None or settings.unit == "none" or settings.noise_from == "secret":
        return []
    return [paragraph("The noise is from the seed: whoever knows the seed can subtract it.")]


def _spent(run: Run) -> dict[str, Any] | None:
    """Return what the rounds have spent, as far as the workdir tells; None: nothing is promised."""
    evaluated = run.evaluation.get("privacy", {})
    known = evaluated or run.saved.get("privacy", {})
    each = [one["epsilon"] for one in (*run.records, evaluated) if "epsilon" in one]
    if not known or not each:
        return None
    # It grows with the rounds, of which the records may know more than the evaluation, or fewer.
    return {**known, "epsilon": None if None in each else max(each)}
