"""Waits until files, folders and their names are on disk."""

import errno
import os
from pathlib import Path

# Errors of file systems that cannot sync folders (some network mounts).
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def make_folder(path: Path) -> None:
    """Make `path` and the folders above it; new folders survive a power cut.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on disk.

    Raises:
        OSError: They could not be written.
    """
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders, and writes names at once
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Return when `folder`, its whole content and its own name are on disk.

    Raises:
        OSError: They could not be written.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))
    sync(folder.parent)
