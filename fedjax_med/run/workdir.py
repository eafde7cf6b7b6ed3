"""The folder that a run lives in: who may write it, and what its experiment.json says of it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fedjax_med.errors import UserError
from fedjax_med.files import clear_temporary, make_folder, read_object, unreadable, writing

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0)
_TRIES = 100  # to lock a file that others keep removing
_LIMIT = 2**26  # bytes of experiment.json: a million clients' names
# Of what experiment.json must hold; and of what it may hold besides.
_KINDS: dict[str, type] = {"experiment": dict, "data_dir": str, "data": str}
_MORE: dict[str, type] = {"cache_dir": str, "test": str, "privacy": dict}


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """Hold `workdir` (made if it is not there) for one process; a killed one lets go of it.

    A folder in which nothing else was written is removed again.

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
            with contextlib.suppress(OSError):  # what ended the run is what must be told
                if [path.name for path in workdir.iterdir()] == [".lock"]:
                    lock.unlink()
                    workdir.rmdir()


def _locked(lock: Path) -> IO[bytes]:
    """`lock`, open and locked; a run that ends removes the file, and even its folder.

    Raises:
        UserError: as `exclusive` does.
    """
    for _ in range(_TRIES):
        with writing(lock.parent):
            make_folder(lock.parent)
            try:
                # Nothing that is there is waited for or emptied.
                descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | _NEVER_WAIT, 0o666)
            except FileNotFoundError:
                if lock.parent.is_dir():  # a link to nowhere
                    raise
                continue
        stream = os.fdopen(descriptor, "r+b", 0)
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(lock.stat(), os.fstat(descriptor)):
                return stream
        except FileNotFoundError:
            pass  # the run that held it removed it before it let go
        except OSError as error:
            stream.close()
            raise _held(lock.parent) from error
        stream.close()
    raise _held(lock.parent)


def _held(workdir: Path) -> UserError:
    return UserError(
        f"another run is training in {workdir}: wait for it, or give another --workdir."
    )


def read_workdir(workdir: Path) -> dict[str, Any]:
    """The ``experiment.json`` that `train` wrote in `workdir`.

    Raises:
        UserError: There is none, or it does not read.
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
