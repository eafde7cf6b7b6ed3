"""From the names of class folders to classes: one class, one spelling."""

import csv
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fedjax_med.data.spelling import of_file, shown, spellings
from fedjax_med.errors import UserError, check_name

FLAG = "--config.dataset.options.rename"


def settle(root: Path, folders: Sequence[Path], rename: str) -> dict[str, str]:
    """Map the name of each class folder to its class.

    Args:
        root: the folder that holds them all.
        folders: the class folders of all hospitals and of the test set.
        rename: ``OLD=NEW,OLD=NEW``: folders and the class that each stands for. A name is written
            as it is, or with the escapes that a message shows.

    Raises:
        UserError: Two classes differ only in their spelling, or `rename` names no folder.
    """
    count = Counter(of_file(folder.name) for folder in folders)
    given = _parsed(rename, list(count))
    classes = {name: given.get(name, name) for name in count}
    if faults := spellings(classes.values()):
        first: dict[str, Path] = {}
        for folder in folders:
            first.setdefault(classes[of_file(folder.name)], folder.relative_to(root))
        _refuse([first[name].as_posix() for name in faults[0]], faults, count)
    return classes


def _parsed(rename: str, names: list[str]) -> dict[str, str]:
    """Read ``OLD=NEW`` entries; an entry with a comma is put in double quotes, as in a CSV."""
    known = {ascii(name)[1:-1]: name for name in names} | {name: name for name in names}
    given: dict[str, str] = {}
    for old, new in entries(rename):
        check_name(old, known, f"the class folders ({FLAG})")
        given[known[old]] = known.get(new, new)
    return given


def entries(rename: str) -> list[tuple[str, str]]:
    """Split ``OLD=NEW,OLD=NEW`` into its pairs.

    Raises:
        UserError: `rename` is something else.
    """
    pairs = []
    for entry in next(csv.reader([rename]), []):
        old, equals, new = entry.partition("=")
        if not (equals and new.strip()):
            raise UserError(f"expected {FLAG}='OLD=NEW,OLD=NEW', got {entry!r} in it.")
        pairs.append((old, new))
    return pairs


def _refuse(places: list[str], faults: list[list[str]], count: Counter[str]) -> None:
    """Refuse the spellings `faults`; `places`: a folder for each of the first."""
    entries = []
    for group in faults:
        kept = max(group, key=lambda name: (name == name.strip(), count[name], name))
        plain = dict(zip(group, shown(group), strict=True))
        # With escapes only where the names look alike without them; `_parsed` reads both.
        text = {name: one[1:-1] if one == ascii(name) else name for name, one in plain.items()}
        entries += [_quoted(f"{text[name]}={text[kept]}") for name in group if name != kept]
    folders = " and ".join(shown(places))
    more = f" (and so do {len(faults) - 1} more classes)" if len(faults) > 1 else ""
    raise UserError(
        f"the class folders {folders} differ only in the spelling of their class{more}: rename "
        f"one, or say which is meant by {FLAG}={shlex.quote(','.join(entries))}."
    )


def _quoted(entry: str) -> str:
    return '"' + entry.replace('"', '""') + '"' if "," in entry else entry
