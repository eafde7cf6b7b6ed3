"""Paths on the benchmarks' command lines."""

from pathlib import Path
from typing import Any

from absl import flags

from fedjax_med.errors import UserError, expand


class _Parser(flags.ArgumentParser):
    """Reads the path of a file to read or write, in a folder that is there; "" stays."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        try:
            path = expand(argument)
        except UserError as error:
            raise ValueError(str(error)) from error
        if argument and not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent}.")
        return str(path) if argument else ""


def define_file(name: str, default: str, help: str, **options: Any) -> None:
    """Define a flag for a file, which is told before anything is measured if it cannot be."""
    flags.DEFINE(_Parser(), name, default, help, **options)


def read_text(argument: str) -> str:
    """Read a file of the command line.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return Path(expand(argument)).read_text()
    except OSError as error:
        raise UserError(f"{argument} cannot be read: {error.strerror}.") from error
