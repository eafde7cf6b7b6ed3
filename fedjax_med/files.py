"""Files: written whole and durably or not at all, and read only if regular and of bounded size."""

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
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# The names that `replacing` writes under.
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.[0-9a-f]{8}\.tmp", re.DOTALL)
# What a folder's file system may answer where it cannot sync folders (some network mounts).
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
    """Tell in one line that `path` cannot be written.

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
    """Give a temporary path beside `path`; what is written there takes the place of `path`.

    The new file is on the disk before it takes the name, and the name before this returns, so that
    after a power cut `path` holds the old content or the new one, each whole. If the block raises,
    `path` stays as it was.

    Args:
        path: to be written; its folder is made.
        mode: of a new file, less what the process's umask takes away.
        stays: whether a file that has the name by then, from another process, stays as it is.

    Raises:
        UserError: It cannot be written.
    """
    # Processes in other containers, which may share the folder, can have the same number.
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
        except OSError:  # some file systems have no links; there the last one wins
            pass
        else:
            return
    temporary.replace(path)


@contextlib.contextmanager
def _locked(temporary: Path) -> Iterator[None]:
    """Let others see that `temporary` is being written."""
    with temporary.open("rb") as stream:
        _lock(stream.fileno())
        yield


def _lock(descriptor: int) -> bool:
    """Lock an open file unless another process has; whether it is locked now."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # held, or a file system without locks
        pass
    return False


def clear_temporary(folder: Path) -> None:
    """Remove the temporary files in `folder` and below that killed processes have left.

    Those that are being written are locked, and stay.
    """
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            if _TEMPORARY.fullmatch(path.name):
                with open_regular(path, 2**62) as stream:
                    if _lock(stream.fileno()):
                        path.unlink()


def put_aside(folder: Path, paths: Iterable[Path]) -> Path:
    """Move `paths` into a new folder ``damaged-NUMBER`` of `folder`; its name.

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
    """Make `path` and the folders above it; those that are new survive a power cut.

    Raises:
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on the disk.

    Raises:
        OSError: They could not be written.
    """
    if os.name == "nt" and path.is_dir():  # which cannot open folders, and writes names at once
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
    """Return when `folder`, all that is in it, and its own name are on the disk.

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

    A named pipe is not waited for, and a device is not read. Links are followed.

    Raises:
        OSError: It is something else, is larger, or cannot be opened; `strerror` says why.
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
    """Give the bytes of `path` if it is a regular file of at most `limit` bytes.

    Raises:
        OSError: As `open_regular` does, or the file grows beyond `limit` while it is read.
    """
    with open_regular(path, limit) as stream:
        # As much as it says, and only if it holds more as much as may be: memory is taken first.
        data = _some(stream, os.fstat(stream.fileno()).st_size + 1, path)
        if len(data) <= limit and (more := _some(stream, 1, path)):
            data += more + _some(stream, limit, path)
    if len(data) > limit:
        raise OSError(errno.EFBIG, _too_large(len(data), limit), str(path))
    return data


def _some(stream: IO[bytes], count: int, path: Path) -> bytes:
    data: bytes | None = stream.read(count)
    if data is None:  # a file of the system that others write into
        raise OSError(errno.EAGAIN, "expected a regular file, got one to wait for", str(path))
    return data


def read_text(path: Path, limit: int, advice: str = "", encoding: str = "utf-8") -> str:
    """Give the text of a regular file of at most `limit` bytes.

    Raises:
        UserError: It cannot be read, with `advice`, a sentence on what to do.
    """
    try:
        return read_regular(path, limit).decode(encoding)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, advice) from error


def read_object(path: Path, limit: int, advice: str = "") -> dict[str, Any]:
    """Give the JSON object in a regular file of at most `limit` bytes.

    Raises:
        UserError: As in `read_text`, or it holds something else.
    """
    try:
        value = json.loads(read_text(path, limit, advice))
    except (ValueError, RecursionError) as error:
        raise unreadable(path, error, advice) from error
    if not isinstance(value, dict):
        raise unreadable(path, ValueError("expected a JSON object"), advice)
    return value


def unreadable(path: Path, error: Exception, advice: str = "") -> UserError:
    """Give the line that says why `path` does not read, with `advice`, a sentence on what to do."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(f"{path} cannot be read: {reason}.{advice and f' {advice}'}")


def _too_large(size: int, limit: int) -> str:
    return f"{size / 1e6:,.1f} MB, expected at most {limit / 1e6:,.1f} MB"
