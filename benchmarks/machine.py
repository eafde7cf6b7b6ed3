"""What a figure is worth nothing without: the machine and the versions."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "torch", "pfl", "flwr", "ray", "fedjax", "numpy")


def versions() -> dict[str, str]:
    """Those of the packages that are installed in this environment."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def processor() -> str:
    """The processor's name, as the system knows it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe() -> dict[str, Any]:
    """The machine, the cores that this process may use, the versions in this environment."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {"machine": processor(), "cores": cores, "versions": versions()}


if __name__ == "__main__":
    import json

    print(json.dumps(versions()))
