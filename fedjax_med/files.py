"""File access: atomic, durable writes, and reads of regular files of bounded size only."""

import contextlib
import errno
import itertools
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from fedjax_med.errors import UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# The temporary file names of `replacing`.
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp", re.DOTALL)
# Errors of file systems that cannot sync folders (some network mounts).
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
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
    # Processes in other containers, which may share the folder, can have the same process id.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        make_folder(path.parent)
        temporary.touch(mode, exist_ok=False)
        with _locked(temporary):
            yield temporary
            sync(temporary)
            _give_name(temporary, path, stays)
            sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"could not write {path}: {reason}. Make room or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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
def _locked(temporary: Path) -> Iterator[None]:
    """Lock `temporary`, so that other processes see that it is being written."""
    with temporary.open("rb") as stream:
        _lock(stream.fileno())
        yield


def _lock(descriptor: int) -> bool:
    """Try to lock an open file; return whether this process holds the lock."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # held by another process, or a file system without locks
        pass
    return False


def clear_temporary(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in `folder` and below.

    Files that are being written are locked, and stay.
    """
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            if _TEMPORARY.fullmatch(path.name):
                with open_regular(path, 2**62) as stream:
                    if _lock(stream.fileno()):
                        path.unlink()


def put_aside(folder: Path, paths: Iterable[Path]) -> Path:
    """Move `paths` into a new folder ``damaged-NUMBER`` of `folder`; return its path.

    Raises:
        OSError: They cannot be moved.
    """
    names = (folder / f"damaged-{number}" for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    make_folder(aside)
    for path in paths:
        path.rename(aside / path.name)
    sync(aside)
    sync(folder)
    return aside


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
        UserError: As in `read_text`, or the file holds something else.
    """
    try:
        value = json.loads(read_text(path, limit, advice))
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
