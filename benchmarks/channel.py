"""How a contender talks with the driver: one JSON object a line, commands in, answers out.

Standard library alone, since it runs inside every peer's own environment.
"""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_megabytes() -> float:
    """The most memory that this process, or the largest of those that it started, has had.

    Of those that still run as Linux tells it in /proc; elsewhere of those alone that have ended.
    """
    kilobytes = [resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
    if not Path("/proc").exists():
        kilobytes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    children, peaks = {}, {}
    for file in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            said = dict(line.split(":", 1) for line in file.read_text().splitlines())
            peaks[file.parent.name] = int(said.get("VmHWM", "0 kB").split()[0])
            children.setdefault(said["PPid"].strip(), []).append(file.parent.name)
    left = [str(os.getpid())]
    while left:
        one = left.pop()
        kilobytes.append(peaks.get(one, 0))
        left += children.get(one, [])
    return max(kilobytes) / 1024


class Channel:
    """A contender's side: ``while channel.next(): train(); channel.done(loss)``.

    device: the name of what it trains on.
    """

    def __init__(self) -> None:
        self.device = "cpu"
        self._loss: Callable[[], float] = lambda: float("nan")
        # Frameworks print to standard output; what they say goes to standard error instead.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._began = 0.0

    def _say(self, **answer: Any) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()

    def next(self) -> bool:
        """Wait for the driver; True to train a round, whose time counts from here."""
        while (command := sys.stdin.readline().strip()) == "loss":
            self._say(loss=float(self._loss()))
        self._began = time.perf_counter()
        if command == "round":
            return True
        self._say(peak_megabytes=peak_megabytes())
        return False

    def done(self, loss: Callable[[], float]) -> None:
        """Say how long the round took; `next` computes the loss after it where the driver asks."""
        self._loss = loss
        self._say(seconds=time.perf_counter() - self._began, device=self.device)
