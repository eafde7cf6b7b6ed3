"""The folder that a run lives in: who may write it, and what its experiment.json says of it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedjax_med.errors import UserError
from fedjax_med.files import clear_temporary, make_folder, read_object, unreadable, writing

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

_NEVER_WAIT = getattr(os, "O_NONBLOCK", 0)
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
    with writing(workdir):
        make_folder(workdir)
        # Nothing that is there is waited for or emptied.
        stream = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT | _NEVER_WAIT, 0o666), "r+b", 0)
    with stream:
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(lock.stat(), os.fstat(stream.fileno())):
                    raise FileExistsError  # another run removed this one, and made its own
        except OSError as error:
            raise UserError(
                f"another run is training in {workdir}: wait for it, or give another --workdir."
            ) from error
        clear_temporary(workdir)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what ended the run is what must be told
                if [path.name for path in workdir.iterdir()] == [".lock"]:
                    lock.unlink()
                    workdir.rmdir()


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
