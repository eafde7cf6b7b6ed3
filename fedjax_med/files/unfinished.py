"""What this process is writing, to be removed if a signal ends the process before it is done."""

import contextlib
import os
from collections.abc import Callable, Iterator

# By process, since a forked one inherits the list, and by a key for each block.
_removals: dict[tuple[int, object], Callable[[], object]] = {}


@contextlib.contextmanager
def unfinished(remove: Callable[[], object]) -> Iterator[None]:
    """Let `remove_unfinished` call `remove` as long as the block runs."""
    key = os.getpid(), object()
    _removals[key] = remove
    try:
        yield
    finally:
        del _removals[key]


def remove_unfinished() -> None:
    """Remove what the blocks of this process were writing, the innermost first.

    Called by a signal handler when the process is about to end: nothing is raised.
    """
    for (process, _), remove in reversed(list(_removals.items())):
        if process == os.getpid():
            with contextlib.suppress(Exception):
                remove()
