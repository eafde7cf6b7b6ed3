"""What a cache folder holds, by kind, and its removal as far as no run uses it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fedjax_med.data.images import holding

# The places of each kind below the cache folder: whoever fills them decides their names.
_KINDS = {
    "prepared images": "image_folder/*/*",
    "drawn lesions": "lesions/*",
    "features": "features/*.npy",
    "compiled programs": "compiled",
}


class Entry(NamedTuple):
    """One thing in the cache that can be removed by itself."""

    kind: str
    path: Path
    size: int  # bytes


def entries(cache: Path) -> list[Entry]:
    """List what `cache` holds, in the order of `_KINDS`; other files in it are not of ours."""
    return [
        Entry(kind, path, sum(size for size in _sizes(path)))
        for kind, pattern in _KINDS.items()
        for path in sorted(cache.glob(pattern))
        if not path.is_symlink()
    ]


def _sizes(path: Path) -> Iterator[int]:
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        try:
            found = one.lstat()
        except OSError:  # a run has just removed or renamed it
            continue
        if not one.is_dir():
            yield found.st_size


def remove(entry: Entry) -> bool:
    """Remove an entry unless a run uses it; return whether it is gone.

    Features and programs in use are open files, which stay readable until they are closed.

    Raises:
        OSError: It cannot be removed.
    """
    if entry.path.is_file():
        entry.path.unlink(missing_ok=True)
        return True
    if entry.kind == "compiled programs":
        shutil.rmtree(entry.path, ignore_errors=True)
        return not entry.path.exists()
    return holding.remove_unused(entry.path)
