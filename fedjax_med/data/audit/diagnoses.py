"""Compares the classes of a data set with the diagnoses that a table gives of its images."""

from collections import Counter
from typing import Any, NamedTuple

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.metadata import Metadata
from fedjax_med.data.spelling import folded
from fedjax_med.errors import printable

_COLUMNS = 12  # diagnoses that have a column of their own in the table
_NONE = "none"


class Contradiction(NamedTuple):
    """An image whose class is not that of its diagnosis."""

    split: str  # "train" or "test"
    name: str
    label: str
    diagnosis: str
    diagnosed: str  # the class that the diagnosis stands for


class Diagnoses(NamedTuple):
    """The result of `compare`."""

    table: str  # the path
    class_names: tuple[str, ...]
    counts: tuple[tuple[tuple[str, str], int], ...]  # of images, by class and diagnosis ("": none)
    meaning: tuple[tuple[str, str], ...]  # of each diagnosis: its class; "" if that is open
    contradictions: tuple[Contradiction, ...]


def compare(dataset: Dataset, metadata: Metadata) -> Diagnoses:
    """Count the images by class and diagnosis, and list those of which the two disagree.

    A diagnosis stands for the class of that name, whatever its spelling; else for the class that
    most of its images lie in, which is open where two classes have as many.
    """
    rows = [
        (which, str(name), dataset.class_names[label], diagnosis)
        for which, split, columns in (
            ("train", dataset.train, metadata.train),
            ("test", dataset.test, metadata.test),
        )
        for name, label, diagnosis in zip(
            split.name, split.label, columns["diagnosis"], strict=True
        )
    ]
    counts = Counter((label, diagnosis) for _, _, label, diagnosis in rows)
    diagnoses = sorted({diagnosis for _, diagnosis in counts} - {""})
    meaning = {one: _meaning(one, counts, dataset.class_names) for one in diagnoses}
    return Diagnoses(
        metadata.path,
        dataset.class_names,
        tuple(sorted(counts.items())),
        tuple(meaning.items()),
        tuple(
            Contradiction(*row, meaning[row[-1]])
            for row in rows
            if meaning.get(row[-1]) not in (None, "", row[2])
        ),
    )


def _meaning(diagnosis: str, counts: Counter[tuple[str, str]], class_names: tuple[str, ...]) -> str:
    """Return the class that a diagnosis stands for, or ""."""
    for name in class_names:
        if folded(name) == folded(diagnosis):
            return name
    sizes = {name: counts[name, diagnosis] for name in class_names}
    most = [name for name, size in sizes.items() if size == max(sizes.values())]
    return most[0] if len(most) == 1 else ""


def to_json(found: Diagnoses | None) -> dict[str, Any] | None:
    """Convert `found` to dictionaries and lists that JSON can hold."""
    if found is None:
        return None
    return {
        "table": found.table,
        "counts": [
            {"class": label, "diagnosis": diagnosis or None, "count": count}
            for (label, diagnosis), count in found.counts
        ],
        "classes_of_diagnoses": dict(found.meaning),
        "count": len(found.contradictions),
        "images": [one._asdict() for one in found.contradictions],
    }


def sentence(found: Diagnoses | None) -> str:
    """Say how many labels contradict the diagnoses; "" if none does."""
    if found is None or not found.contradictions:
        return ""
    return (
        f" {len(found.contradictions):,} labels contradict the diagnoses of "
        f"{printable(found.table, 200)} (`fedjax-med audit` lists them)."
    )


def lines(found: Diagnoses) -> list[str]:
    """Format the table of classes and diagnoses, and count the contradictions."""
    sizes: Counter[str] = Counter()
    for (_, diagnosis), count in found.counts:
        sizes[diagnosis] += count
    shown = [one for one, _ in sizes.most_common() if one][:_COLUMNS]
    counts = dict(found.counts)
    columns = [
        (printable(one, 12), [counts.get((k, one), 0) for k in found.class_names]) for one in shown
    ]
    columns.append((_NONE, [counts.get((k, ""), 0) for k in found.class_names]))
    width = max(len(printable(name)) for name in ("class", *found.class_names)) + 2
    title = f"labels contradict the diagnoses of {printable(found.table, 200)}"
    kinds = Counter((one.label, one.diagnosis, one.diagnosed) for one in found.contradictions)
    made = [f"  {'class':<{width}}" + "".join(f"{name:>{_wide(name)}}" for name, _ in columns)]
    for row, name in enumerate(found.class_names):
        cells = "".join(f"{each[row]:>{_wide(heading)},}" for heading, each in columns)
        made.append(f"  {printable(name):<{width}}{cells}")
    made += ["", f"{len(found.contradictions):>5,}  {title}"]
    for (label, diagnosis, diagnosed), count in kinds.most_common():
        of, name, other = map(printable, (diagnosis, label, diagnosed))
        made.append(f"{count:>9,}  {name}, diagnosis {of}: {other}")
    return made


def _wide(heading: str) -> int:
    return max(len(heading), 5) + 2


def examples(found: Diagnoses) -> list[str]:
    """Say of each image what contradicts."""
    return [
        f"{'test: ' if one.split == 'test' else ''}{one.name}: {one.diagnosis}"
        for one in found.contradictions
    ]
