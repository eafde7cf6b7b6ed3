"""Standard output and errors that outlive their reader: a closed pipe, a terminal that is gone."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from fedjax_med.run.signals import CLOSED_OUTPUT


def open_standard() -> None:
    """Open the null device in place of standard streams that were closed before the start.

    The next file that is opened would get their number, and with it whatever is printed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def by_lines(stream: TextIO) -> None:
    """Flush `stream` at the end of each line, so that a log file is never behind."""
    if change := getattr(stream, "reconfigure", None):
        change(line_buffering=True)


def discard(stream: TextIO) -> None:
    """Drop from now on what is printed to `stream`, and what it holds in its buffer."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, or closed
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class _Lasting:
    """A text stream that, once it cannot be written, drops everything instead of raising."""

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream, self._failed, self._lost = stream, failed, False

    def write(self, text: str) -> int:
        """Write `text`, or drop it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, unless the stream is lost."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            if not self._lost:
                action()
        except OSError as error:
            self._lost = True
            discard(self._stream)
            self._failed(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting(received: list[int], then: str = "stopping after this round") -> Iterator[None]:
    """Take a standard output that cannot be written as a request to stop.

    The round of a run is then saved, as on a signal. Standard error is dropped in silence.

    Args:
        received: the signals received so far; gets `CLOSED_OUTPUT`.
        then: what the program does about it.
    """

    def lost(error: OSError) -> None:
        received.append(CLOSED_OUTPUT)
        reason = error.strerror or type(error).__name__
        print(
            f"fedjax-med: standard output cannot be written ({reason}): {then}.",
            file=sys.stderr,
        )

    out: Any = sys.stdout and _Lasting(sys.stdout, lost)  # None where there is none
    err: Any = sys.stderr and _Lasting(sys.stderr, lambda error: None)
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        yield
