"""File access: atomic, durable writes, and reads of regular files of bounded size only."""

import contextlib
import errno
import functools
import glob
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fedjax_med.errors import UserError
from fedjax_med.files.nesting import check_depth
from fedjax_med.files.syncing import make_folder as make_folder
from fedjax_med.files.syncing import sync as sync
from fedjax_med.files.syncing import sync_tree as sync_tree
from fedjax_med.files.unfinished import unfinished

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# The temporary file names of `replacing`.
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_ABANDONED = 86_400  # seconds since the last write; by then nobody writes a file any more
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_NEVER_WAIT = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Report an `OSError` of the block in one line: `path` cannot be written.

    Raises:
        UserError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror or error}). What was saved before is intact: "
            "make room there or make it writable, then give the same command again."
        ) from error


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666, *, stays: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; the file written there replaces `path`.

    The new file is on disk before it takes the name, and the name before this returns, so that
    after a power cut `path` holds the old content or the new one, each whole. If the block raises,
    `path` is unchanged.

    Args:
        path: the file to write; its folder is created.
        mode: permissions of a new file, less the process's umask.
        stays: whether a file that another process has created at `path` by then is kept.

    Raises:
        UserError: The file cannot be written.
    """
    try:
        make_folder(path.parent)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            _clear(left)
        with _temporary(path, mode) as temporary:
            yield temporary
            sync(temporary)
            _give_name(temporary, path, stays)
            sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"could not write {path}: {reason}. What was saved before is intact: make room or "
            "choose another folder."
        ) from error


def _give_name(temporary: Path, path: Path, stays: bool) -> None:
    if stays:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links: the last writer wins
            pass
        else:
            return
    temporary.replace(path)


@contextlib.contextmanager
def _temporary(path: Path, mode: int) -> Iterator[Path]:
    """Create a file beside `path`, locked so that others see that it is being written; remove it.

    Another process may take it for abandoned before it is locked: then it is another one.
    """
    while True:
        # Processes in other containers, which may share the folder, can have the same process id.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        remove = functools.partial(_remove, temporary)
        with contextlib.closing(os.fdopen(descriptor)), unfinished(remove):
            try:
                if _locked(descriptor) and temporary.exists():
                    yield temporary
                    return
            finally:
                remove()


def _locked(descriptor: int) -> bool:
    """Lock an open file if the file system has locks; return False if another process did."""
    try:
        return try_lock(descriptor)
    except OSError:
        return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process; return False if another one holds the lock.

    Raises:
        OSError: It cannot be locked, for example since the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # EWOULDBLOCK; all else says nothing about other processes
        return False
    return True


def _is_abandoned(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:  # no locks here
        return time.time() - os.fstat(descriptor).st_mtime > _ABANDONED


def clear_temporary(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in `folder` and below.

    Files that are being written are locked, and stay. Where files cannot be locked, those stay that
    were written to within a day.
    """
    for path in folder.rglob(".*.tmp"):
        _clear(path)


def _clear(path: Path) -> None:
    with contextlib.suppress(OSError):
        if _TEMPORARY.fullmatch(path.name):
            with open_regular(path, 2**62) as stream:
                if _is_abandoned(stream.fileno()):
                    path.unlink()


@contextlib.contextmanager
def open_regular(path: Path, limit: int) -> Iterator[IO[bytes]]:
    """Open `path` for reading if it is a regular file of at most `limit` bytes.

    Never waits for a named pipe or reads a device. Links are followed.

    Raises:
        OSError: It is not a regular file, is larger, or cannot be opened; `strerror` says why.
    """
    descriptor = os.open(path, _NEVER_WAIT)
    try:
        _check_regular(descriptor, path, limit)
        stream = os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
    with stream:
        yield stream


def _check_regular(descriptor: int, path: Path, limit: int) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"expected a regular file, got {kind}", str(path))
    if found.st_size > limit:
        raise OSError(errno.EFBIG, _too_large(found.st_size, limit), str(path))


def read_regular(path: Path, limit: int) -> bytes:
    """Read the bytes of `path` if it is a regular file of at most `limit` bytes.

    Raises:
        OSError: As `open_regular` does, or the file grows beyond `limit` while it is read.
    """
    with open_regular(path, limit) as stream:
        # The reported size, then up to the limit only if there is more: `read` allocates first.
        data = _some(stream, os.fstat(stream.fileno()).st_size + 1, path)
        if len(data) <= limit and (more := _some(stream, 1, path)):
            data += more + _some(stream, limit, path)
    if len(data) > limit:
        raise OSError(errno.EFBIG, _too_large(len(data), limit), str(path))
    return data


def _some(stream: IO[bytes], count: int, path: Path) -> bytes:
    data: bytes | None = stream.read(count)
    if data is None:  # a system file that others write into, empty for now
        raise OSError(errno.EAGAIN, "expected a regular file, got one to wait for", str(path))
    return data


def read_text(path: Path, limit: int, advice: str = "", encoding: str = "utf-8") -> str:
    """Read the text of a regular file of at most `limit` bytes.

    Raises:
        UserError: It cannot be read; the message ends with `advice`, a sentence on what to do.
    """
    try:
        return read_regular(path, limit).decode(encoding)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, advice) from error


def read_object(path: Path, limit: int, advice: str = "") -> dict[str, Any]:
    """Read the JSON object in a regular file of at most `limit` bytes.

    Raises:
        UserError: As in `read_text`, or the file holds something else, or nested too deep.
    """
    try:
        value = json.loads(read_text(path, limit, advice))
        check_depth(value)
    except (ValueError, RecursionError) as error:
        raise unreadable(path, error, advice) from error
    if not isinstance(value, dict):
        raise unreadable(path, ValueError("expected a JSON object"), advice)
    return value


def unreadable(path: Path, error: Exception, advice: str = "") -> UserError:
    """Build the error that says why `path` cannot be read, with `advice` on what to do."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(f"{path} cannot be read: {reason}.{advice and f' {advice}'}")


def _too_large(size: int, limit: int) -> str:
    return f"{size / 1e6:,.1f} MB, expected at most {limit / 1e6:,.1f} MB"
