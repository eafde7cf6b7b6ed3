"""Images that are prepared once and kept: read, or prepared first, and anew where damaged."""

import sys
from collections.abc import Callable
from pathlib import Path

from fedjax_med.data.images import checksums, holding
from fedjax_med.data.images.array_record import UNFINISHED, Prepared, cannot_write
from fedjax_med.errors import UserError, printable


def read_or_prepare(
    there: Path, cache_dir: Path, prepare: Callable[[], None], read: Callable[[], Prepared]
) -> Prepared:
    """Read the images that are kept at `there`, prepared first if they are not there or damaged.

    What killed runs left unfinished beside them is removed.

    Args:
        there: the `fedjax_med.data.images.array_record.place` in a folder for these images only,
            which is created, and held while the images are prepared and read.
        cache_dir: the cache that contains it, for the messages.
        prepare: writes the images at `there`.
        read: reads them.

    Raises:
        UserError: The cache cannot be written; or the images are damaged while another run uses
            them, or again when they have just been prepared.
    """
    try:
        try:
            return _held(there, prepare, read)
        except checksums.DamagedError as error:
            _remove(there.parent.parent, error.what)
        return _held(there, prepare, read)
    except OSError as error:
        raise cannot_write(cache_dir, error) from error


def _held(there: Path, prepare: Callable[[], None], read: Callable[[], Prepared]) -> Prepared:
    folder = there.parent.parent
    with holding.held(folder):
        for left in folder.glob(f"{UNFINISHED}*"):  # by killed runs
            holding.remove_unused(left)
        if not there.exists():
            prepare()
        return read()


def _remove(folder: Path, damage: str) -> None:
    """Remove images that are known to be damaged, unless another run uses them, and say so."""
    said = printable(f"prepared images in {folder} are damaged ({damage})", 500)
    if not holding.remove_unused(folder, lambda: _is_damaged(folder)):
        raise UserError(
            f"the {said} and stay, since another run may read them: run again when none does, or "
            "remove that folder."
        )
    print(f"The {said}: preparing them anew.", file=sys.stderr)


def _is_damaged(folder: Path) -> bool:
    """Check whether any set of images in `folder` is known to be damaged."""
    try:
        return not all(checksums.check(one, thorough=True) for one in _sets(folder))
    except checksums.DamagedError:
        return True
    except OSError:
        return False


def _sets(folder: Path) -> list[Path]:
    """List the sets of images in `folder` that were written to their end."""
    every = (one for one in folder.glob("*/*") if one.is_dir())
    return [one for one in every if not one.parent.name.startswith(UNFINISHED)]
