"""Handling of Ctrl-C and termination signals: exit at once, or stop between two rounds."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending the process with one line.

    Python's default, KeyboardInterrupt, is raised wherever the program happens to be: during
    imports it ends in a traceback, and inside a JAX callback it is lost. Files are written under
    a temporary name and renamed, so an exit at any moment leaves none half written.
    """
    del frame
    os.write(2, b"fedjax-med: interrupted.\n")
    os._exit(128 + number)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and termination signals; a second one ends the process at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            end_at_once(number, frame)
        received.append(number)
        # Not print: the signal may arrive while print holds the buffer.
        os.write(1, b"Stopping after this round (once more: at once, without it) ...\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
