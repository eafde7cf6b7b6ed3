"""Choice of the checkpoints of a run to keep: the last ones and the best.

The choice depends only on what the checkpoints themselves record, so a stopped and resumed run
keeps the same ones as a run that was never stopped.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """The data of one checkpoint that decide whether it is kept."""

    scheduled: bool  # False: saved only because a signal or the last round ended the run
    score: float | None  # by validation, higher is better; None without validation


def _score(number: int, entry: Entry | None, last: int) -> float:
    """Return the score of a candidate for the best; minus infinity if it is not a candidate."""
    if entry is None or entry.score is None or math.isnan(entry.score):
        return -math.inf
    return entry.score if entry.scheduled or number == last else -math.inf


def best_first(entries: Mapping[int, Entry | None], last: int = 0) -> list[int]:
    """Sort rounds by score, best first, later before earlier; rounds without a score come last.

    Args:
        entries: by round; None for a checkpoint that cannot be read, which comes first: it may have
            been the best, and whoever restores it says that it is damaged.
        last: the last round of the run, a candidate even if it was not scheduled.
    """
    rank = {
        number: (entry is None, _score(number, entry, last), number)
        for number, entry in entries.items()
    }
    return sorted(rank, key=lambda number: rank[number], reverse=True)


def kept(entries: Mapping[int, Entry | None], keep_last: int, keep_best: int) -> set[int]:
    """Choose the rounds whose checkpoints are kept.

    An unscheduled checkpoint is kept only while it is the latest. So the same ones are kept however
    often a run was stopped, and also if more rounds were requested later.

    Args:
        entries: by round; None for a checkpoint that cannot be read, which is kept: it is not
            known to be worthless.
        keep_last: how many are kept because they are the latest; at least one.
        keep_best: how many of the scheduled ones are kept for their score.
    """
    unknown = {number for number, entry in entries.items() if entry is None}
    latest = max(entries, default=0)
    scheduled = sorted(number for number, entry in entries.items() if entry and entry.scheduled)
    before = [number for number in scheduled if number != latest]
    last = {latest, *before[max(0, len(before) - max(0, keep_last - 1)) :]} & entries.keys()
    ranked = best_first({number: entries[number] for number in scheduled})
    best = [number for number in ranked if _score(number, entries[number], 0) > -math.inf]
    return unknown | last | set(best[: max(0, keep_best)])
