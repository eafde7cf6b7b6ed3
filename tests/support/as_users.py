"""Starts commands as users do: compiled with XLA's optimizations, which the suite leaves out."""

import os
import subprocess
import sys
from pathlib import Path


def command(*arguments: object, timeout: float = 600) -> "subprocess.CompletedProcess[str]":
    """Run ``fedjax-med`` in a process of its own, for work that takes longer than compiling it."""
    return subprocess.run(
        [sys.executable, "-m", "fedjax_med", *map(str, arguments)],
        cwd=Path(__file__).parent.parent.parent,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
