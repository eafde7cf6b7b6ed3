"""Ctrl-C and termination signals: at once, or collected to stop between two rounds."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType


def end_at_once(number: int, frame: FrameType | None) -> None:
    """A signal's handler that ends the process with one line.

    What Python does by itself, KeyboardInterrupt, is raised where the program happens to be: while
    it loads it ends in a traceback, and inside a callback of JAX it is lost. Files are written
    beside their place and renamed, so an end at any moment leaves none half written.
    """
    del frame
    os.write(2, b"fedjax-med: interrupted.\n")
    os._exit(128 + number)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects Ctrl-C and termination signals; a second one ends at once."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            end_at_once(number, frame)
        received.append(number)
        # Not print: the signal may come while print holds the buffer.
        os.write(1, b"Stopping after this round (once more: at once, without it) ...\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
