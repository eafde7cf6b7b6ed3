"""Whether the classes of a data set come from different sources, such as archives or devices.

Where two classes come from two sources, what a model learns may be the source: the scanner, the
file format, the ruler at the border. The table of classes and sources shows it without any model;
that features tell the source within one class shows how much of it the images have.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.metadata import Metadata, known
from fedjax_med.errors import printable

COINCIDES = 0.95  # balanced accuracy of telling two classes by the source alone
LEAST = 10  # images of a class with a known source
_COLUMNS = 12
_NONE = "none"


class Sources(NamedTuple):
    """The result of `find`."""

    column: str
    class_names: tuple[str, ...]
    names: tuple[str, ...]  # S of them, those of most images first
    counts: npt.NDArray[np.int64]  # [K, S + 1] of images; the last column: of no known source
    cramers_v: float  # 0: class and source are independent; 1: one follows from the other
    coinciding: tuple[tuple[int, int, float], ...]  # two classes, and that balanced accuracy


def named(cells: Sequence[str], prefix: str) -> list[str]:
    """Return the sources of images by the cells of their column; "" is none.

    Args:
        cells: of the column.
        prefix: "" if each cell is a source; else there are two, the cells that begin so and all
            others, also the empty ones.
    """
    if not prefix:
        return known(cells)
    return [f"{prefix}*" if cell.startswith(prefix) else "other" for cell in cells]


def find(dataset: Dataset, metadata: Metadata, prefix: str, column: str) -> Sources:
    """Count the images of Train and Test by class and source.

    Args:
        dataset: the images.
        metadata: of them, with the role "source".
        prefix: as for `named`.
        column: its heading.
    """
    cells = named(metadata.train["source"] + metadata.test["source"], prefix)
    labels = [*dataset.train.label.tolist(), *dataset.test.label.tolist()]
    names = [one for one, _ in Counter(filter(None, cells)).most_common()]
    place = {one: at for at, one in enumerate(names)} | {"": len(names)}
    counts = np.zeros((len(dataset.class_names), len(names) + 1), np.int64)
    np.add.at(counts, (labels, [place[cell] for cell in cells]), 1)
    by_source = counts[:, :-1]
    return Sources(
        column,
        dataset.class_names,
        tuple(names),
        counts,
        _cramers_v(by_source),
        _coinciding(by_source),
    )


def _cramers_v(counts: npt.NDArray[np.int64]) -> float:
    """Compute Cramér's V of a table, from 0 to 1; 0 if it has one row or column."""
    table = counts[counts.sum(axis=1) > 0].astype(np.float64)
    smaller = min(table.shape) - 1
    if smaller < 1:
        return 0.0
    total = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / total
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / total / smaller))


def _coinciding(counts: npt.NDArray[np.int64]) -> tuple[tuple[int, int, float], ...]:
    """List the pairs of classes that the best rule on the source alone tells apart.

    Its balanced accuracy is 1 less half of what the classes' shares of the sources have in common.
    """
    classes = np.flatnonzero(counts.sum(axis=1) >= LEAST).tolist()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found = []
    for at, one in enumerate(classes):
        for other in classes[at + 1 :]:
            right = 1 - float(np.minimum(shares[one], shares[other]).sum()) / 2
            found += [(one, other, right)] if right >= COINCIDES else []
    return tuple(found)


def to_json(found: Sources) -> dict[str, Any]:
    """Convert the findings to dictionaries and lists that JSON can hold."""
    names = found.class_names
    return {
        "column": found.column,
        "counts": [
            {"class": name, "source": source, "count": int(count)}
            for name, row in zip(names, found.counts, strict=True)
            for source, count in zip((*found.names, None), row, strict=True)
        ],
        "cramers_v": found.cramers_v,
        "classes_told_by_source": [
            {"classes": [names[i], names[j]], "balanced_accuracy": right}
            for i, j, right in found.coinciding
        ],
    }


def lines(found: Sources) -> list[str]:
    """Format the table of classes and sources, and warn of those that coincide."""
    shown = found.names[:_COLUMNS]
    headings = [*(printable(one, 20) for one in shown), _NONE]
    columns = [*range(len(shown)), len(found.names)]
    width = max(len(printable(name)) for name in ("class", *found.class_names)) + 2
    made = [f"  {'class':<{width}}" + "".join(f"{one:>{_wide(one)}}" for one in headings)]
    for name, row in zip(found.class_names, found.counts, strict=True):
        cells = zip(headings, columns, strict=True)
        numbers = "".join(f"{row[at]:>{_wide(heading)},}" for heading, at in cells)
        made.append(f"  {printable(name):<{width}}{numbers}")
    column = printable(found.column)
    made += ["", f"       Class and source ({column}): Cramer's V {found.cramers_v:.2f}"]
    if len(found.names) > _COLUMNS:
        made[-1] += f"; {len(found.names) - _COLUMNS:,} more sources are not shown"
    return made + _warning(found)


def _warning(found: Sources) -> list[str]:
    if not found.coinciding:
        return []
    main = found.counts[:, :-1].argmax(axis=1)
    by_source: dict[int, list[str]] = {}
    for label in sorted({label for i, j, _ in found.coinciding for label in (i, j)}):
        by_source.setdefault(int(main[label]), []).append(printable(found.class_names[label]))
    of = "; ".join(f"{printable(found.names[s])}: {', '.join(by_source[s])}" for s in by_source)
    return [
        f"{len(found.coinciding):>5,}  pairs of classes that the source alone tells apart, in at "
        f"least {COINCIDES:.0%} of images",
        f"         {of}",
        "         Warning: what a model learns may be the source. Test it on images of each "
        "class from the other sources.",
    ]


def _wide(heading: str) -> int:
    return max(len(heading), 5) + 2
