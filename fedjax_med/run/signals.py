"""Handling of signals and of a closed output: exit at once, or stop between two rounds."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from fedjax_med.files.unfinished import remove_unfinished

# Signals of someone who waits: the second one ends the process at once.
_BY_HAND = frozenset({signal.SIGINT, signal.SIGTERM})
# Signals of terminals and schedulers, which may send several: requests, however often they come.
_REQUESTS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGQUIT", "SIGALRM", "SIGPWR")
CLOSED_OUTPUT = 13  # SIGPIPE: recorded where standard output is closed


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle a signal by ending the process with one line.

    Python's default, KeyboardInterrupt, is raised wherever the program happens to be: during
    imports it ends in a traceback, and inside a JAX callback it is lost. Files are written under
    a temporary name and renamed, so an exit at any moment leaves none half written; what has such
    a name is removed.
    """
    del frame
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    _tell(2, f"fedjax-med: interrupted{by}.\n".encode())
    remove_unfinished()
    os._exit(128 + number)


def end_on_signals() -> None:
    """Let each signal that requests a stop in rounds end the process at once elsewhere."""
    for number in _signals():
        signal.signal(number, end_at_once)


def _tell(descriptor: int, line: bytes) -> None:
    """Write a line; not by print, which may hold the buffer while the signal arrives."""
    with contextlib.suppress(OSError):  # closed, or a terminal that is gone
        os.write(descriptor, line)


def _signals() -> list[signal.Signals]:
    """List the signals that request a stop, less those that this process was told to ignore.

    `nohup` lets a process ignore SIGHUP. Ctrl-C and SIGTERM count even so: a shell without job
    control lets its background commands ignore SIGINT, which is then sent on purpose.
    """
    there = [getattr(signal, name) for name in _REQUESTS if hasattr(signal, name)]
    heard = [one for one in there if signal.getsignal(one) is not signal.SIG_IGN]
    return [*_BY_HAND, *heard]


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the signals that request a stop; a second Ctrl-C or SIGTERM ends the process at once.

    Outside of the main thread, which alone may handle signals, none are collected.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if number in _BY_HAND and _BY_HAND & set(received):
            end_at_once(number, frame)
        hint = b" (once more: at once, without it)" if number in _BY_HAND else b""
        if hint or not received:
            _tell(1, b"Stopping after this round" + hint + b" ...\n")
        received.append(number)

    before = {number: signal.signal(number, handle) for number in _signals()}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
