"""Locks on folders that runs share: a folder is removed only while no run uses it."""

import contextlib
import errno
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from fedjax_med.files import make_folder

try:
    import fcntl
except ImportError:  # not on Windows, which removes no file that is open
    fcntl = None  # type: ignore[assignment]

_TRIES = 100  # to hold a folder that other runs keep removing


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Create `folder` if it is missing, and keep other runs from removing it.

    Raises:
        OSError: It cannot be made.
    """
    descriptor = _hold(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def hold_for(owner: object, folder: Path) -> None:
    """Keep other runs from removing `folder` as long as `owner` lives.

    Raises:
        OSError: It cannot be made.
    """
    descriptor = _hold(folder)
    if descriptor is not None:
        weakref.finalize(owner, os.close, descriptor)


def _hold(folder: Path) -> int | None:
    """Return a descriptor that shares the lock of `folder`; None on a file system without locks."""
    for _ in range(_TRIES):
        make_folder(folder)
        if fcntl is not None:
            try:
                descriptor = os.open(folder, os.O_RDONLY)
            except FileNotFoundError:  # removed before it was held
                continue
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _is(folder, descriptor):
                    return descriptor
                os.close(descriptor)
                continue
            os.close(descriptor)
        return None
    raise OSError(errno.EBUSY, "other runs keep removing it", str(folder))


def _is(folder: Path, descriptor: int) -> bool:
    """Check whether the open `descriptor` is still the folder of that name."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_unused(folder: Path, still: Callable[[], bool] = lambda: True) -> bool:
    """Remove `folder` unless a run holds it, or this cannot be determined.

    Args:
        folder: never removed if it is a link.
        still: tells whether to remove it; called while no other run can hold or remove it.

    Returns:
        Whether it is gone.
    """
    if folder.is_symlink():
        return False
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            try:
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return not folder.exists()
            if not _is(folder, descriptor):  # another run removed it, and one may have made it anew
                return not folder.exists()
        if still():
            shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()
