"""Writes a report where a command has made or changed what it is about."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from fedjax_med.errors import UserError
from fedjax_med.execution import multihost
from fedjax_med.report import page


@contextlib.contextmanager
def reported(workdir: Path) -> Iterator[None]:
    """Write the report of `workdir` after the block, in the first process.

    It is written even if the block ended because nobody read its lines any more. A report that
    cannot be written is told, and does not fail the command.
    """
    try:
        yield
    except OSError:  # of the standard output; all files were written before
        with contextlib.suppress(OSError):
            if multihost.is_main():
                _add(workdir)
        raise
    multihost.on_main(_add, workdir)


def _add(workdir: Path) -> None:
    """Write the report, unless the command was stopped before there were any results."""
    if not any((workdir / name).exists() for name in ("evaluation.json", "comparison.json")):
        return
    try:
        file = page.write(workdir)
    except UserError as error:
        print(f"fedjax-med: no report was written: {error}", file=sys.stderr)
    else:
        print(f"Written: {file}")
