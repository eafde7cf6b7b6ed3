"""The sections of a report, a shelf: a file for each, with what it reads and a ``build``.

``build(run)`` returns the section, or None if the workdir lacks what it needs; ``READS`` is the
file of the workdir that is damaged where its values have no such form.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from fedjax_med.report.inputs import Run
from fedjax_med.report.markup import Section
from fedjax_med.report.sections import (
    again,
    calibration,
    communication,
    comparison,
    confusion,
    contribution,
    curves,
    decision,
    discrimination,
    hospitals,
    images,
    mistakes,
    privacy,
    results,
    summary,
)


class SectionFile(Protocol):
    """A file of the shelf."""

    @property
    def READS(self) -> str:  # noqa: N802
        """Name the file of the workdir that the section reads."""

    def build(self, run: Run) -> Section | None:
        """Build the section of `run`, if its workdir has what it needs."""


# In the order of the page; a name is also the section's address in it.
ORDER: Mapping[str, SectionFile] = MappingProxyType(
    {
        "summary": summary,
        "comparison": comparison,
        "images": images,
        "curves": curves,
        "results": results,
        "confusion": confusion,
        "discrimination": discrimination,
        "decision": decision,
        "calibration": calibration,
        "hospitals": hospitals,
        "mistakes": mistakes,
        "communication": communication,
        "privacy": privacy,
        "contribution": contribution,
        "again": again,
    }
)
