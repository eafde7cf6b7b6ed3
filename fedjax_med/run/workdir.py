"""The workdir of a run: its lock for a single writer, and its experiment.json."""

import contextlib
import errno
import functools
import math
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fedjax_med import files
from fedjax_med.errors import UserError
from fedjax_med.files import clear_temporary, make_folder, read_object, unreadable, writing
from fedjax_med.files.unfinished import unfinished

_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0)
_UNLOCKED = (
    "fedjax-med: files in {} cannot be locked ({}), so nothing keeps a second run out of it: start "
    "only one."
)
_TRIES = 100  # to lock a file that other runs keep removing
_LIMIT = 2**26  # bytes of experiment.json: enough for a million clients' names
# Types of the required entries of experiment.json, and of the optional ones.
_KINDS: dict[str, type] = {"experiment": dict, "data_dir": str, "data": str}
REPORTED = "reported"  # the entry of the digest of what no checkpoint has a checksum of
_MORE: dict[str, type] = {
    "cache_dir": str,
    "test": str,
    "test_set": str,
    "privacy": dict,
    REPORTED: str,
}


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """Lock `workdir` (created if missing) for one process; a killed process releases it.

    The folder is removed again if nothing else was written into it.

    Raises:
        UserError: The folder cannot be written, or another run holds it.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: expected a folder, or a new name.")
    lock = workdir / ".lock"
    leave = functools.partial(_leave, workdir, lock)
    with _locked(lock), unfinished(leave):
        clear_temporary(workdir)
        try:
            yield
        finally:
            leave()


def _leave(workdir: Path, lock: Path) -> None:
    """Remove the workdir if it holds nothing but its lock."""
    with contextlib.suppress(OSError):  # must not hide the error that ended the run
        if [path.name for path in workdir.iterdir()] == [".lock"]:
            lock.unlink()
            workdir.rmdir()


def _locked(lock: Path) -> IO[bytes]:
    """Open and lock the file `lock`, which an ending run may remove, even with its folder.

    Raises:
        UserError: As `exclusive` does.
    """
    for _ in range(_TRIES):
        with writing(lock.parent):
            make_folder(lock.parent)
            try:
                # Neither waits for an existing file, such as a pipe, nor empties it.
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _NEVER_WAIT, 0o666)
            except FileNotFoundError:
                if lock.parent.is_dir():  # a dangling link
                    raise
                continue
        stream = os.fdopen(descriptor, "r+b", 0)
        fault = _lock_fault(stream, lock.parent)
        with contextlib.suppress(FileNotFoundError):  # removed by the run that held it
            if os.path.samestat(lock.stat(), os.fstat(descriptor)):
                if fault:
                    print(_UNLOCKED.format(lock.parent, fault), file=sys.stderr)
                return stream
        stream.close()
    raise _held(lock.parent)


def _lock_fault(stream: IO[bytes], workdir: Path) -> str:
    """Lock an open file of `workdir`; return why it cannot be locked, or "".

    Raises:
        UserError: Another run holds the lock.
    """
    try:
        if files.try_lock(stream.fileno()):
            return ""
    except OSError as error:
        return error.strerror or str(error)
    stream.close()
    raise _held(workdir)


def _held(workdir: Path) -> UserError:
    return UserError(
        f"another run is training in {workdir}: wait for it, or give another --workdir."
    )


def check_writable(workdir: Path) -> None:
    """Refuse a folder that cannot be written or made, and make none.

    Raises:
        UserError: The message says what is in the way.
    """
    there = next(path for path in (workdir, *workdir.absolute().parents) if os.path.lexists(path))
    with writing(workdir):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{there} is not writable")


def check_file_writable(file: Path) -> None:
    """Refuse a name that no file can be written at, and write nothing.

    Raises:
        UserError: It is a folder, or its folder cannot be written or made.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder: expected the name of a file to write.")
    check_writable(file.parent)


@contextlib.contextmanager
def private(workdir: Path) -> Iterator[None]:
    """Let only the owner into `workdir`, for what must not leave a hospital and for secrets.

    The folder is closed before the block writes into it, each file in it after the block, so that
    copies are closed too. Nothing else that the process writes is affected.

    Raises:
        UserError: The modes cannot be changed.
    """
    with writing(workdir):
        _close(workdir)
    try:
        yield
    finally:
        with writing(workdir):
            for path in sorted(workdir.rglob("*")):
                _close(path)


def _close(path: Path) -> None:
    """Take all permissions on `path`, unless it is a link, from everybody but its owner."""
    mode = path.lstat().st_mode
    if mode & 0o077 and not stat.S_ISLNK(mode):
        path.chmod(stat.S_IMODE(mode) & 0o700)


def _cache_dir() -> str:
    # The XDG base directory specification says that relative paths are to be ignored.
    given = os.environ.get("XDG_CACHE_HOME", "")
    return str(Path(given) / "fedjax_med") if Path(given).is_absolute() else "~/.cache/fedjax_med"


CACHE_DIR = _cache_dir()  # where prepared data is kept if nothing else is said


def read_workdir(workdir: Path) -> dict[str, Any]:
    """Read the ``experiment.json`` that `train` wrote in `workdir`.

    Raises:
        UserError: There is none, or it is malformed.
    """
    file = workdir / "experiment.json"
    if not file.exists():
        raise UserError(
            f"expected a workdir that `fedjax-med train` wrote, but there is no {file}."
        )
    saved = read_object(file, _LIMIT)
    present = {name: kind for name, kind in _MORE.items() if name in saved}
    for name, kind in (_KINDS | present).items():
        if not isinstance(saved.get(name), kind):
            raise unreadable(file, ValueError("it is not what `fedjax-med train` writes"))
    if "privacy" in saved and not _is_multiplier(saved["privacy"].get("noise_multiplier")):
        wanted = "expected a number of at least 0 as its privacy's noise_multiplier"
        raise unreadable(file, ValueError(wanted))
    return saved


def _is_multiplier(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf
