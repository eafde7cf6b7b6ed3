"""The folder that a run lives in: who may write it, and what its experiment.json says of it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedjax_med.errors import UserError
from fedjax_med.files import make_folder, writing

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def exclusive(workdir: Path) -> Iterator[None]:
    """Hold `workdir` (made if it is not there) for one process; a killed one lets go of it.

    A folder in which nothing else was written is removed again.

    Raises:
        UserError: The folder cannot be written, or another run holds it.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: expected a folder, or a new name.")
    with writing(workdir):
        make_folder(workdir)
        stream = (workdir / ".lock").open("w")
    with stream:
        try:
            if fcntl is not None:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another run is training in {workdir}: wait for it, or give another --workdir."
            ) from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # what ended the run is what must be told
                if [path.name for path in workdir.iterdir()] == [".lock"]:
                    (workdir / ".lock").unlink()
                    workdir.rmdir()


def read_workdir(workdir: Path) -> dict[str, Any]:
    """The ``experiment.json`` that `train` wrote in `workdir`.

    Raises:
        UserError: There is none, or it does not read.
    """
    file = workdir / "experiment.json"
    try:
        saved = json.loads(file.read_text("utf-8"))
        if not isinstance(saved, dict) or not {"experiment", "data_dir", "data"} <= set(saved):
            raise ValueError("it is not what `fedjax-med train` writes")
        return saved
    except FileNotFoundError as error:
        raise UserError(
            f"expected a workdir that `fedjax-med train` wrote, but there is no {file}."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from error
