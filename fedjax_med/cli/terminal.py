"""Guards the terminal against names of files, folders and clients that others chose."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from fedjax_med.errors import printable


class Guarded:
    """A text stream that escapes control characters, and what its encoding does not have.

    Line breaks stay, and all else that a stream can do is done by the one that is guarded.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, escaped; return its length before."""
        lines = (printable(line, len(line)) for line in text.split("\n"))
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = "\n".join(lines).encode(encoding, "backslashreplace").decode(encoding)
        self._stream.write(shown)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Guard the standard output and the standard error within the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Guarded(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
