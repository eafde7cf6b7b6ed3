"""Keeps compiled programs in a folder that several processes may read and write at once."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
from jax._src import lru_cache

from fedjax_med.errors import expand

_put = lru_cache.LRUCache.put  # JAX's own


def cache_programs(cache_dir: str) -> None:
    """Keep compiled programs in the folder ``compiled`` of `cache_dir`, for later processes.

    A folder that JAX has been given already is kept.
    """
    write_programs_whole()
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = expand(cache_dir) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Many small programs build the first state. By default, programs that compile in under a
    # second are not cached, and compiling them again would be most of a later start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def write_programs_whole() -> None:
    """Let JAX write each program beside its place and rename it.

    JAX itself writes it in its place: another process that reads it meanwhile warns of a damaged
    entry, and what a killed process has left of one is never replaced.
    """
    lru_cache.LRUCache.put = _put_whole  # type: ignore[method-assign]


def _put_whole(self: Any, key: str, value: bytes) -> None:
    """Add an entry, or replace the one that could not be read."""
    folder = Path(self.path)
    if self.eviction_enabled or not folder.is_dir():  # JAX has a lock for it; not a local folder
        _put(self, key, value)
        return
    descriptor, beside = tempfile.mkstemp(prefix=f"{key[:64]}-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
        os.replace(beside, folder / f"{key}-cache")  # noqa: PTH105 (it is a name, not a Path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # noqa: PTH108
        raise
