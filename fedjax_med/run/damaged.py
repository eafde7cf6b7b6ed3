"""What cannot be read any more is moved aside, not removed."""

import itertools
from collections.abc import Iterable
from pathlib import Path

from fedjax_med.files import make_folder, sync


def put_aside(folder: Path, paths: Iterable[Path]) -> Path:
    """Move `paths` into a new folder ``damaged-NUMBER`` of `folder`; return its path.

    Raises:
        OSError: They cannot be moved.
    """
    names = (folder / f"damaged-{number}" for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    make_folder(aside)
    for path in paths:
        path.rename(aside / path.name)
    sync(aside)
    sync(folder)
    return aside
