"""Checksums of the files in a folder, to tell damage from a fault of the program."""

import hashlib
import json
import stat
from pathlib import Path
from typing import NamedTuple

from fedjax_med.errors import UserError
from fedjax_med.files import open_regular, read_regular, replacing

NAME = "checksums.json"
_SMALL = 2**20  # bytes; the content of files up to this size is checked each time
_LIMIT = 2**26  # bytes of checksums.json itself: enough for 500,000 files

# Errors that damaged files cannot cause: faults of the program.
FAULTS = (
    ImportError,
    AttributeError,
    TypeError,
    NameError,
    AssertionError,
    NotImplementedError,
    RecursionError,
)


class DamagedError(UserError):
    """Files are missing or differ from those written."""

    def __init__(self, folder: Path, what: str) -> None:
        """Report that the prepared images in `folder` are damaged; `what` names the fault."""
        super().__init__(
            f"the prepared images in {folder} are damaged ({what}): run again to prepare them anew."
        )
        self.what = what


class _File(NamedTuple):
    size: int
    sha256: str


def write(folder: Path) -> None:
    """Write the checksums of all files in `folder` into it.

    Raises:
        OSError: A file cannot be read.
        UserError: The checksums cannot be written.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = {
        path.relative_to(folder).as_posix(): _File(path.stat().st_size, _sha256(path))._asdict()
        for path in files
    }
    with replacing(folder / NAME) as temporary:
        temporary.write_text(json.dumps({"files": listed}, indent=1) + "\n", "utf-8")


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with open_regular(path, path.stat().st_size) as stream:
        while block := stream.read(_SMALL):
            total.update(block)
    return total.hexdigest()


def _read(folder: Path) -> dict[str, _File] | None:
    """Read the checksums that `write` wrote; None if there are none.

    Raises:
        OSError: They cannot be read.
        ValueError: They are damaged.
    """
    try:
        listed = json.loads(read_regular(folder / NAME, _LIMIT))["files"]
        return {name: _File(int(one["size"]), str(one["sha256"])) for name, one in listed.items()}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{NAME} does not read") from error


def check(folder: Path, thorough: bool = False, part: str = "") -> bool:
    """Compare the files in `folder` with their checksums.

    Args:
        folder: the folder given to `write`; files without a checksum are ignored.
        thorough: whether to read large files; otherwise only their size is compared.
        part: what the names of the files to compare begin with.

    Returns:
        Whether there are checksums.

    Raises:
        DamagedError: A file differs or is missing.
        OSError: A file cannot be read, so that its state is unknown.
    """
    try:
        listed = _read(folder)
    except ValueError as error:
        raise DamagedError(folder, str(error)) from error
    for name, wanted in (listed or {}).items():
        if name.startswith(part) and (fault := _fault(folder / name, wanted, thorough)):
            raise DamagedError(folder, f"{name} {fault}")
    return listed is not None


def _fault(path: Path, wanted: _File, thorough: bool) -> str:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if found.st_size != wanted.size:
        return f"has {found.st_size:,} bytes instead of {wanted.size:,}"
    if (thorough or wanted.size <= _SMALL) and _sha256(path) != wanted.sha256:
        return "has other bytes"
    return ""


def explain(folder: Path, error: Exception) -> UserError | None:
    """Turn an error in reading prepared images into one that a user understands.

    Args:
        folder: the prepared images whose reading raised `error`.
        error: not a `UserError`.

    Returns:
        `DamagedError` if the files are damaged; another `UserError` if they could not be read or
        have no checksums; None if it is a fault of the program.
    """
    if isinstance(error, FAULTS):
        return None
    try:
        if check(folder, thorough=True) and not isinstance(error, OSError):
            return None
    except DamagedError as damaged:
        return damaged
    except OSError as other:
        error = other
    return UserError(
        f"the prepared images in {folder} could not be read: try again, and if it stays so remove "
        f"that folder ({' '.join(str(error).split()) or type(error).__name__})."
    )
