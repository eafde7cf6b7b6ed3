"""Fixtures and settings that every test shares."""

import inspect
import os
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fedjax_med.execution.program_cache import write_programs_whole
from fedjax_med.experiment.config import Experiment

# Four virtual devices for the sharded client maps; must be set before JAX starts its backend.
# Most of the time goes into compiling small programs, which takes a third less without XLA's and
# LLVM's optimizations, and half of the rest without the fusion emitters, which JAX 0.11 and later
# do not let go. `make test-wheel`, and processes that a test starts without these flags, compile as
# users do.
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=4 {_QUICK}")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "fedjax_med_test_xla")
)
# Programs are dropped after every file (below), so the small ones are worth keeping, too.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("MPLBACKEND", "Agg")

# tiny.py and toy.py in tests/support read it, in this process and in those that a test starts.
MAP_CLIENTS = "FEDJAX_MED_MAP_CLIENTS"

_LATEST = pytest.StashKey[float]()  # the time by which tests must begin


def pytest_addoption(parser: pytest.Parser) -> None:
    """The client map where a test does not choose by itself, and the time for all of them."""
    names = Experiment.__dataclass_fields__["map_clients"].metadata["choices"]
    parser.addoption("--map-clients", choices=names, help="the client map to test with")
    text = "seconds after which no further test begins: it is skipped, and the summary says so"
    parser.addoption("--begin-within", type=float, default=float("inf"), help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Hand the client map on; pytest-xdist configures its workers in the same way."""
    write_programs_whole()  # the workers share their programs
    config.stash[_LATEST] = time.monotonic() + config.getoption("--begin-within")
    if name := config.getoption("--map-clients"):
        os.environ[MAP_CLIENTS] = name
        place = list(Experiment.__dataclass_fields__).index("map_clients")
        made = inspect.unwrap(Experiment.__init__)
        made.__defaults__ = (*made.__defaults__[:place], name, *made.__defaults__[place + 1 :])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what would begin too late."""
    if time.monotonic() > item.config.stash[_LATEST]:
        pytest.skip("left out: this machine is too slow for --begin-within")


ISIC9 = Path(
    os.environ.get(
        "FEDJAX_MED_ISIC9", Path(__file__).parent.parent.parent / "shared" / "data" / "isic9"
    )
)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Thousands in one process come to the system's limit of memory maps, and it crashes."""
    yield
    import jax  # here: after the settings above

    jax.clear_caches()


@pytest.fixture(scope="session")
def isic9_dir() -> Path:
    """The folder of the real images; without it the test skips, except in CI, where it fails."""
    if not (ISIC9 / "Train").is_dir():
        reason = f"the skin-cancer images are not in {ISIC9} (set FEDJAX_MED_ISIC9)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return ISIC9


@pytest.fixture(scope="session")
def isic9_metadata(isic9_dir: Path) -> Path:
    """The table of the real images' lesions, with the same rule."""
    file = isic9_dir.parent / "isic9_metadata.csv"
    if not file.is_file():
        reason = f"the table of the lesions is not at {file}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return file


@pytest.fixture
def file_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is asked of the file system, in its order: ("sync" or "rename", of which path)."""
    found: list[tuple[str, str]] = []
    fsync = os.fsync

    def synced(descriptor: int) -> None:
        found.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def moved(move: Any) -> Any:
        def call(source: Any, target: Any, **options: Any) -> None:
            found.append(("rename", str(target)))
            move(source, target, **options)

        return call

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, moved(getattr(os, name)))
    return found
