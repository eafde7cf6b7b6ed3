"""The memory that this process may use: of the machine, its container, its job and its limits."""

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

_MIB = 2**20
# Of cgroups: the files that limit the memory in version 2 and in version 1.
_FILES = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}
# Slurm's variables: MiB, and by what they are multiplied.
_SLURM = {
    "SLURM_MEM_PER_NODE": "",
    "SLURM_MEM_PER_CPU": "SLURM_CPUS_ON_NODE",
    "SLURM_MEM_PER_GPU": "SLURM_GPUS_ON_NODE",
}


def memory_bytes(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> float:
    """Return the bytes that this process may use; infinite if nothing limits it or is reported.

    The least of the machine's memory, the limits of this process's cgroup and of those around it
    (containers, systemd, Slurm, Kubernetes), Slurm's variables, and `ulimit -v` and `-d`.

    Args:
        root: the folder that holds ``proc`` and the mounted cgroups.
        environ: the environment's variables.
    """
    known = [_machine(), *_cgroups(root), *_slurm(environ), *_limits()]
    return min(known, default=math.inf)


def _machine() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def _limits() -> Iterator[float]:
    """Yield the limits of the address space and of the data segment."""
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        if resource is not None and (number := getattr(resource, name, None)) is not None:
            soft, _ = resource.getrlimit(number)
            if soft not in (resource.RLIM_INFINITY, -1):
                yield float(soft)


def _slurm(environ: Mapping[str, str]) -> Iterator[float]:
    """Yield the memory of this node's part of the job; 0 means all of it."""
    for name, times in _SLURM.items():
        with contextlib.suppress(KeyError, ValueError):
            megabytes = int(environ[name]) * (int(environ[times]) if times else 1)
            if megabytes > 0:
                yield float(megabytes * _MIB)


class _Mount(NamedTuple):
    """A mounted hierarchy of cgroups."""

    kind: str  # cgroup2, or cgroup: version 1
    top: str  # the cgroup that is mounted
    place: str  # where


def _cgroups(root: Path) -> Iterator[float]:
    """Yield the limits of this process's cgroups of both versions and of all above them."""
    mine = _own_cgroups(_text(root / "proc/self/cgroup"))
    for mount in _mounts(_text(root / "proc/self/mountinfo")):
        if mount.kind not in mine:
            continue
        place = root / mount.place.lstrip("/")
        below = PurePosixPath(mine[mount.kind].removeprefix(mount.top.rstrip("/")).lstrip("/"))
        # A container may see its own cgroup mounted under the path of the host, which is then not
        # there: what is there counts, the mounted one in any case.
        for group in (below, *below.parents):
            for name in _FILES[mount.kind]:
                text = "" if ".." in group.parts else _text(place / group / name)
                with contextlib.suppress(ValueError):  # max, or no such file
                    yield float(int(text))


def _own_cgroups(text: str) -> dict[str, str]:
    """Read this process's cgroup of each version from ``/proc/self/cgroup``."""
    found = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found["cgroup2"] = path
        elif "memory" in controllers.split(","):
            found["cgroup"] = path
    return found


def _mounts(text: str) -> Iterator[_Mount]:
    """Read where the cgroups that limit memory are mounted from ``/proc/self/mountinfo``."""
    for line in text.splitlines():
        before, _, after = (part.split() for part in line.partition(" - "))
        if len(before) < 5 or not after or after[0] not in _FILES:
            continue
        if after[0] == "cgroup" and "memory" not in after[-1].split(","):
            continue
        yield _Mount(after[0], *map(_plain, before[3:5]))


def _plain(path: str) -> str:
    """Undo the octal escapes of ``mountinfo``."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
