"""How a contender talks with the driver: one JSON object a line, commands in, answers out.

Standard library alone, since it runs inside every peer's own environment.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


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
        kilobytes = [resource.getrusage(who).ru_maxrss for who in (0, resource.RUSAGE_CHILDREN)]
        self._say(peak_megabytes=max(kilobytes) / 1024)
        return False

    def done(self, loss: Callable[[], float]) -> None:
        """Say how long the round took; `next` computes the loss after it where the driver asks."""
        self._loss = loss
        self._say(seconds=time.perf_counter() - self._began, device=self.device)
