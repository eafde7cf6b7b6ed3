"""Says what a table of corrections changes: in a sentence, as JSON, and as lines of the audit."""

from collections import Counter
from typing import Any

from fedjax_med.data.corrections.correct import Changes
from fedjax_med.data.corrections.table import FLAG
from fedjax_med.errors import printable

_SHOWN = 5  # kinds of changes in a sentence


def sentence(changes: Changes) -> str:
    """Say what the corrections changed, for the line about the data."""
    parts = [f"{len(changes.changed):,} labels changed"]
    if changes.changed:
        parts[0] += f": {_counted(changes)}"
    if changes.without_image:
        parts.append(f"{changes.without_image:,} rows name no image here")
    if changes.emptied:
        names = ", ".join(map(printable, changes.emptied))
        parts.append(f"without the class {names}, which has no image left")
    table = printable(changes.table)
    return f" Corrections {table} (SHA-256 {changes.sha256[:12]}): {'; '.join(parts)}."


def warning(changes: Changes | None) -> str:
    """Warn in a line of labels that are known to be wrong and stay so; "" if there are none."""
    if changes is None or changes.applied:
        return ""
    return (
        f"Warning: {len(changes.changed):,} labels of these images are known to be wrong: "
        f"{_counted(changes)}. {_flags(changes)} corrects them."
    )


def to_json(changes: Changes | None) -> dict[str, Any] | None:
    """Convert `changes` to dictionaries and lists that JSON can hold."""
    if changes is None:
        return None
    return {
        "table": changes.table,
        "sha256": changes.sha256,
        "applied": changes.applied,
        "count": len(changes.changed),
        "by_classes": [
            {"before": before, "after": after, "basis": basis, "count": count}
            for (before, after, basis), count in changes.counts
        ],
        "rows_without_image": changes.without_image,
        "emptied_classes": list(changes.emptied),
        "images": [one._asdict() for one in changes.changed],
    }


def examples(changes: Changes) -> list[str]:
    """Say of each image what changes, and why."""
    return [
        f"{'test: ' if one.split == 'test' else ''}{one.name} -> {one.after} ({one.basis})"
        for one in changes.changed
    ]


def lines(changes: Changes) -> list[str]:
    """List the changes by class and basis, for the table of the audit."""
    title = f"labels changed by the corrections {printable(changes.table)}"
    if not changes.applied:
        title = f"labels known to be wrong, corrected by {_flags(changes)}"
    found = [f"{len(changes.changed):>5,}  {title}"]
    for (before, after, basis), count in changes.counts:
        found.append(f"{count:>9,}  {printable(before)} -> {printable(after)} ({printable(basis)})")
    if changes.without_image:
        found.append(f"{changes.without_image:>9,}  rows of the table name no image here")
    for name in changes.emptied if changes.applied else ():
        found.append(f"           no image is left of {printable(name)}: without this class")
    return found


def _flags(changes: Changes) -> str:
    return f"--config.policy=corrected {FLAG}={changes.table}"


def _counted(changes: Changes) -> str:
    """Count the changes by class, and within it by the kind of basis."""
    pairs: dict[tuple[str, str], list[str]] = {}
    sizes: Counter[tuple[str, str]] = Counter()
    for (before, after, basis), count in changes.counts:
        pairs.setdefault((before, after), []).append(f"{count:,} {printable(basis)}")
        sizes[before, after] += count
    texts = [
        f"{count:,} {printable(before)} -> {printable(after)} ({', '.join(pairs[before, after])})"
        for (before, after), count in sizes.most_common()
    ]
    more = len(texts) - _SHOWN
    return ", ".join(texts[:_SHOWN]) + (f" and {more:,} more kinds" if more > 0 else "")
