"""The workdir of a run: its lock for a single writer, and its experiment.json."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fedjax_med.errors import UserError
from fedjax_med.files import clear_temporary, make_folder, read_object, unreadable, writing

try:
    import fcntl
except ImportError:  # on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0)
_TRIES = 100  # to lock a file that other runs keep removing
_LIMIT = 2**26  # bytes of experiment.json: enough for a million clients' names
# Types of the required entries of experiment.json, and of the optional ones.
_KINDS: dict[str, type] = {"experiment": dict, "data_dir": str, "data": str}
_MORE: dict[str, type] = {"cache_dir": str, "test": str, "privacy": dict}


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
    with _locked(lock):
        clear_temporary(workdir)
        try:
            yield
        finally:
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
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(lock.stat(), os.fstat(descriptor)):
                return stream
        except FileNotFoundError:
            pass  # the run that held the lock removed it before releasing it
        except OSError as error:
            stream.close()
            raise _held(lock.parent) from error
        stream.close()
    raise _held(lock.parent)


def _held(workdir: Path) -> UserError:
    return UserError(
        f"another run is training in {workdir}: wait for it, or give another --workdir."
    )


CACHE_DIR = "~/.cache/fedjax_med"  # where prepared data is kept if nothing else is said


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
    return saved
