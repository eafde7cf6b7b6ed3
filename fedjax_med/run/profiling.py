"""Profiling of rounds: a line with the time of each part, and a trace for a viewer."""

import contextlib
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from fedjax_med.errors import UserError
from fedjax_med.files import writing


def parse_rounds(text: str) -> range:
    """Parse rounds such as ``3`` or ``3-5``; an empty text means none.

    Raises:
        UserError: The text has another form.
    """
    if not text:
        return range(0)
    match = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if last < first:
        raise UserError(f"expected --profile_rounds=FIRST-LAST, such as 3-5, got {text!r}.")
    return range(first, last + 1)


def peak_memory() -> str:
    """Format the peak memory of this process."""
    try:
        import resource
    except ImportError:  # on Windows
        return "not known on this system"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return f"{peak * unit / 2**30:.2f} GiB at most"


class Profile:
    """Traces `rounds` into ``workdir/profile``, and prints the time of each part of a round.

    The trace opens in TensorBoard (with the extra `profile`) and, as ``perfetto_trace.json.gz``, on
    https://ui.perfetto.dev. Tracing itself takes time; the first round of a process also compiles.
    """

    def __init__(self, workdir: Path, rounds: range) -> None:
        self._folder, self._rounds = workdir / "profile", rounds
        self._seconds: dict[str, float] = {}
        self._tracing = False

    def check(self, first: int, last: int) -> None:
        """Print a notice if none of the rounds to run, `first` to `last`, is to be profiled."""
        wanted = self._rounds
        if not wanted or (wanted[0] <= last and wanted[-1] >= first):
            return
        left = f"rounds {first} to {last} are left" if first <= last else "no round is left"
        print(f"--profile_rounds={wanted[0]}-{wanted[-1]}: nothing is profiled, since {left}.")

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to the round's part `name`."""
        began = time.perf_counter()
        with jax.profiler.TraceAnnotation(name):
            yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def begin(self, number: int) -> None:
        """Start round `number`, and a trace if it is to be profiled."""
        self._seconds.clear()
        if number in self._rounds and not self._tracing:
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._tracing = True

    def end(self, number: int) -> None:
        """End round `number`: print its times, and end the trace after the last profiled round."""
        if number in self._rounds:
            parts = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self._seconds.items())
            print(f"round {number}: {parts}", flush=True)
        if self._tracing and number + 1 not in self._rounds:
            self.close()
            print(f"The trace is in {self._folder}.", flush=True)

    def close(self) -> None:
        """End the trace, if one is running."""
        if self._tracing:
            self._tracing = False
            with writing(self._folder):
                jax.profiler.stop_trace()
