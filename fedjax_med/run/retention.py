"""Which checkpoints of a run are kept: the last ones and the best.

The choice depends on what the checkpoints themselves say, so a run that was stopped and goes on
keeps the same ones as a run that was never stopped.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """What a checkpoint says of itself."""

    scheduled: bool  # False: it was saved only because a signal or the last round ended the run
    score: float | None  # by validation, the more the better; None without validation


def _score(number: int, entry: Entry | None, last: int) -> float:
    """Give the score of a candidate for the best; minus infinity of a round that is none."""
    if entry is None or entry.score is None or math.isnan(entry.score):
        return -math.inf
    return entry.score if entry.scheduled or number == last else -math.inf


def best_first(entries: Mapping[int, Entry | None], last: int = 0) -> list[int]:
    """Order rounds by their score, best first, later before earlier; those without come last.

    Args:
        entries: by round; None for a checkpoint that cannot be read.
        last: the last round of the run, which is a candidate whether it was scheduled or not.
    """
    rank = {number: (_score(number, entry, last), number) for number, entry in entries.items()}
    return sorted(rank, key=lambda number: rank[number], reverse=True)


def kept(entries: Mapping[int, Entry | None], keep_last: int, keep_best: int) -> set[int]:
    """Choose the rounds whose checkpoints stay.

    What was not scheduled stays only as long as it is the latest. So whatever stopped a run
    meanwhile, and also where more rounds were asked for later, the same ones are kept.

    Args:
        entries: by round; None for a checkpoint that cannot be read, which stays: what cannot be
            read now is not known to be worthless.
        keep_last: how many stay because they are the latest; at least one.
        keep_best: how many of the scheduled ones stay because of their score.
    """
    unknown = {number for number, entry in entries.items() if entry is None}
    latest = max(entries, default=0)
    scheduled = sorted(number for number, entry in entries.items() if entry and entry.scheduled)
    before = [number for number in scheduled if number != latest]
    last = {latest, *before[max(0, len(before) - max(0, keep_last - 1)) :]} & entries.keys()
    ranked = best_first({number: entries[number] for number in scheduled})
    best = [number for number in ranked if _score(number, entries[number], 0) > -math.inf]
    return unknown | last | set(best[: max(0, keep_best)])
