"""Which checkpoints of a run are kept: the last ones and the best.

The choice depends on what the checkpoints themselves say, so a run that was stopped and goes on
keeps the same ones as a run that was never stopped.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Entry(NamedTuple):
    """What a checkpoint says of itself."""

    scheduled: bool  # False: it was saved because a signal stopped the run
    score: float | None  # by validation, the more the better; None without validation


def _score(entry: Entry | None) -> float:
    """The score of a candidate for the best; minus infinity of what is none."""
    score = entry.score if entry is not None and entry.scheduled else None
    return -math.inf if score is None or math.isnan(score) else score


def best_first(entries: Mapping[int, Entry | None]) -> list[int]:
    """Order rounds by their score, best first, later before earlier; those without come last.

    Args:
        entries: by round; None for a checkpoint that cannot be read.
    """
    return sorted(entries, key=lambda number: (_score(entries[number]), number), reverse=True)


def kept(entries: Mapping[int, Entry | None], keep_last: int, keep_best: int) -> set[int]:
    """Choose the rounds whose checkpoints stay; the latest is always among them.

    Args:
        entries: by round; None for a checkpoint that cannot be read, which stays: what cannot be
            read now is not known to be worthless.
        keep_last: how many of the scheduled ones stay because they are the latest; at least one.
        keep_best: how many of the scheduled ones stay because of their score.
    """
    unknown = {number for number, entry in entries.items() if entry is None}
    scheduled = sorted(number for number, entry in entries.items() if entry and entry.scheduled)
    last = {*scheduled[-max(1, keep_last) :], *sorted(entries)[-1:]}
    scored = [number for number in best_first(entries) if _score(entries[number]) > -math.inf]
    return unknown | last | set(scored[: max(0, keep_best)])
