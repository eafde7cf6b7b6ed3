"""The file ``metrics.jsonl``: a line of JSON for each round, as also kept in the checkpoint."""

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fedjax_med.errors import UserError
from fedjax_med.files import read_regular, unreadable
from fedjax_med.files.nesting import check_depth

_LIMIT = 2**32  # bytes: ten thousand rounds of a few thousand clients

Record = dict[str, Any]  # one round's line


def read_records(file: Path, until: int) -> list[Record]:
    """Read the records of ``metrics.jsonl`` up to round `until`, sorted by round.

    Lines that are torn or not records are skipped; of several lines of a round the last counts.

    Raises:
        UserError: The file exists but cannot be read.
    """
    try:
        return _parsed(read_text(file), until)
    except OSError as error:
        raise unreadable(file, error, "Remove it and give the `train` command again.") from error


def read_text(file: Path) -> str:
    """Read the text of ``metrics.jsonl``, "" if there is none.

    Raises:
        OSError: It is not a regular file, or cannot be read.
    """
    try:
        return read_regular(file, _LIMIT).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _parsed(text: str, until: int) -> list[Record]:
    records: dict[int, Record] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            check_depth(record)
            if _is_record(record) and 1 <= record["round"] <= until:
                records[record["round"]] = record
    return [records[number] for number in sorted(records)]


def _is_record(value: Any) -> bool:
    """Return whether `value` has the fields of a record that its readers need."""
    if not isinstance(value, dict) or type(value.get("round")) is not int:
        return False
    clients, seconds = value.get("clients"), value.get("seconds")
    return isinstance(clients, dict) and "steps" in clients and isinstance(seconds, int | float)


def all_records(workdir: Path, done: int) -> list[Record]:
    """Read the records of the rounds 1 to `done` of a run.

    Raises:
        UserError: A record is missing.
    """
    file = workdir / "metrics.jsonl"
    records = read_records(file, done)
    if lost := _lost(records, done):
        raise UserError(
            f"{file} lacks {_in_words(lost)}: give the command again that trained it, which writes "
            "it anew from the checkpoint."
        )
    return records


def _lost(records: list[Record], done: int) -> list[int]:
    return sorted({*range(1, done + 1)} - {record["round"] for record in records})


def as_text(records: Iterable[Record]) -> str:
    """Format records as lines of JSON."""
    return "".join(json.dumps(record) + "\n" for record in records)


def reconcile(
    file: Path, start: int, saved: list[Record] | None, say: Callable[[str], None] = print
) -> list[Record]:
    """Reconcile ``metrics.jsonl`` with the checkpoint before a run resumes.

    Args:
        file: as a stopped run, a full disk or an editor left it.
        start: the number of completed rounds.
        saved: their records in the checkpoint; None if it has none (written by an older version).
        say: receives a message on faults of the file.

    Returns:
        The records of the rounds up to `start`.
    """
    try:
        text = read_text(file)
    except OSError:  # such as a pipe, which is replaced
        text = ""
    found = _parsed(text, start)
    if saved is None:
        if lost := _lost(found, start):
            say(f"{file} lacks {_in_words(lost)}, and so do the sums of bytes and seconds.")
        return found
    expected = as_text(saved)
    # After a kill, later rounds may follow, the last one torn; repeated earlier ones are wrong.
    if not text.startswith(expected) or _parsed(text[len(expected) :], start):
        lines = {json.dumps(record) for record in found}
        lost = [record["round"] for record in saved if json.dumps(record) not in lines]
        what = f"lacked {_in_words(lost)}" if lost else "had lines too many"
        say(f"{file} {what}: written anew from the checkpoint.")
    return saved


def _in_words(rounds: list[int]) -> str:
    """Format rounds as "rounds 3, 4 and 12 more"."""
    more = f" and {len(rounds) - 5} more" if len(rounds) > 5 else ""
    return f"round{'s' * (len(rounds) > 1)} {', '.join(map(str, rounds[:5]))}{more}"
