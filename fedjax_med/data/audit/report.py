"""Formats an audit as a table for people and as JSON for programs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedjax_med.data.audit import (
    diagnoses,
    evidence,
    evidence_report,
    group_findings,
    lesions,
    sources,
)
from fedjax_med.data.audit.findings import Audit, SameImage
from fedjax_med.data.corrections import report as corrections
from fedjax_med.errors import printable

FEW_TRAIN, FEW_TEST = 20, 10  # class sizes below these get a remark

_EXAMPLES = 10  # listed in the table per finding

TITLES = {
    "train_contradictions": "images in Train under more than one label",
    "train_copies": "images in Train more than once under one label",
    "leaks_other_label": "images of Test that are also in Train, under another label",
    "leaks_same_label": "images of Test that are also in Train, under the same label",
    "test_contradictions": "images in Test under more than one label",
    "test_copies": "images in Test more than once under one label",
    "near_duplicates": "images that differ from another only in size, colour or encoding",
}


def to_json(audit: Audit) -> dict[str, Any]:
    """Convert `audit` to dictionaries and lists that JSON can hold."""
    sizes = zip(audit.class_names, audit.train_sizes, audit.test_sizes, strict=True)
    return {
        "dataset": audit.dataset,
        "num_train": sum(audit.train_sizes),
        "num_test": sum(audit.test_sizes),
        "classes": [
            {"name": name, "train": train, "test": test, "remark": _remark(train, test)}
            for name, train, test in sizes
        ],
        "findings": {
            key: {
                "meaning": title,
                "count": len(getattr(audit, key)),
                "by_classes": _by_classes(getattr(audit, key)),
                "images": [image._asdict() for image in getattr(audit, key)],
            }
            for key, title in TITLES.items()
        },
        "unreadable": [file._asdict() for file in audit.unreadable],
        "ignored": dict(audit.ignored),
        "dark": list(audit.dark),
        "levels": dict(audit.levels),
        "corrections": corrections.to_json(audit.corrections),
        "diagnoses": diagnoses.to_json(audit.diagnoses),
        **({"groups": group_findings.to_json(audit.groups)} if audit.groups else {}),
        **({"lesions": lesions.to_json(audit.lesions)} if audit.lesions else {}),
        **({"sources": sources.to_json(audit.sources)} if audit.sources else {}),
        **({"evidence": evidence.to_json(audit.evidence)} if audit.evidence else {}),
    }


def table(audit: Audit, more: str = "audit.json") -> str:
    """Format `audit` for people, ten examples per finding; `more` names the file with the rest."""
    classes = list(map(printable, audit.class_names))
    width = max(len(name) for name in ("class", *classes)) + 2
    lines = [f"  {'class':<{width}}{'train':>7}{'test':>7}"]
    for name, train, test in zip(classes, audit.train_sizes, audit.test_sizes, strict=True):
        remark = _remark(train, test)
        lines.append(f"  {name:<{width}}{train:>7,}{test:>7,}{'  ' + remark if remark else ''}")
    lines.append(f"  {'all':<{width}}{sum(audit.train_sizes):>7,}{sum(audit.test_sizes):>7,}")
    if audit.corrections is not None:
        lines += ["", *corrections.lines(audit.corrections)]
        lines += _examples(corrections.examples(audit.corrections), more)
    if audit.diagnoses is not None:
        lines += ["", *diagnoses.lines(audit.diagnoses)]
        lines += _examples(diagnoses.examples(audit.diagnoses), more)
    for key, title in TITLES.items():
        images = getattr(audit, key)
        lines += ["", f"{len(images):>5,}  {title}"]
        lines += [f"{n:>9,}  {' / '.join(map(printable, pair))}" for pair, n in _pairs(images)]
        lines += _examples([" = ".join(_marked(image)) for image in images], more)
    lines += group_findings.lines(audit.groups, more)
    lines += _further(audit, more)
    lines += ["", f"{len(audit.unreadable):>5,}  unreadable files"]
    lines += _examples([f"{f.split}: {f.name}: {f.reason}" for f in audit.unreadable], more)
    lines += ["", f"{len(audit.dark):>5,}  nearly black images: is their white too high?"]
    lines += _examples(list(audit.dark), more)
    count = sum(number for _, number in audit.levels)
    lines += [
        "",
        f"{count:>5,}  images of more than 8 bits: the grey levels shown as black and white",
    ]
    lines += [f"{number:>9,}  {text}" for text, number in audit.levels[:_EXAMPLES]]
    lines += [f"           ... see {more}"] if len(audit.levels) > _EXAMPLES else []
    count = sum(number for _, number in audit.ignored)
    lines += ["", f"{count:>5,}  ignored: no images by their names, or outside of train and test"]
    lines += [f"{number:>9,}  {printable(suffix)}" for suffix, number in audit.ignored]
    return "\n".join(lines)


def _further(audit: Audit, more: str) -> list[str]:
    """Format what is known of lesions, sources and features."""
    made = []
    if audit.lesions is not None:
        made += ["", *lesions.lines(audit.lesions, more)]
    if audit.sources is not None:
        made += ["", *sources.lines(audit.sources)]
    if audit.evidence is not None:
        related = audit.sources.cramers_v if audit.sources is not None else 0.0
        made += ["", *evidence_report.lines(audit.evidence, related, more)]
    return made


def _remark(train: int, test: int) -> str:
    remarks = []
    if train < FEW_TRAIN:
        remarks.append("few train images" if train else "no train images")
    if test < FEW_TEST:
        remarks.append("few test images" if test else "no test images")
    return ", ".join(remarks)


def _pairs(images: Sequence[SameImage]) -> list[tuple[tuple[str, ...], int]]:
    return Counter(image.classes for image in images).most_common()


def _by_classes(images: Sequence[SameImage]) -> list[dict[str, Any]]:
    return [{"classes": list(classes), "count": count} for classes, count in _pairs(images)]


def _marked(image: SameImage) -> list[str]:
    return [*image.train, *(f"test: {name}" for name in image.test)]


def _examples(texts: list[str], more: str) -> list[str]:
    lines = [f"           {printable(text, 200)}" for text in texts[:_EXAMPLES]]
    if len(texts) > _EXAMPLES:
        lines.append(f"           ... and {len(texts) - _EXAMPLES:,} more, see {more}")
    return lines
