"""Paths on the scripts' command lines."""

import argparse
from pathlib import Path

from fedjax_med.errors import UserError, expand


def path(text: str) -> Path:
    """Read a path, as a `type` of argparse: ``~`` is the home folder, or ``~NAME`` that of NAME."""
    try:
        return expand(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
