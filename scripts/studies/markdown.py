"""Pieces of Markdown that the pages share."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import machine


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table; the first row is the header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def made_on(*packages: str) -> str:
    """Describe this machine, with the versions of the packages: named as in `machine.versions`."""
    found: dict[str, Any] = machine.describe()
    versions = [f"{name} {found['versions'][name.lower()]}" for name in packages]
    return ", ".join([f"{found['cores']} cores of {found['machine']}", *versions])
