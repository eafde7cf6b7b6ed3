"""Suits a run to the machine: its client map, its memory, XLA's flags and compiled programs."""

import os
from typing import Any, NamedTuple

import jax

from fedjax_med.core.client_map import CLIENT_MAPS, ClientMap
from fedjax_med.errors import UserError, printable

NAMES = ("auto", *CLIENT_MAPS, "sharded")
_SHARE = 0.9  # share of a device's free memory that a round may use; the rest is lost in gaps
_FEW_PARAMETERS = 10_000  # up to here `vmap` is faster for dense layers on a CPU
_DETERMINISTIC = "xla_gpu_deterministic_ops"
# XLA's CPU compiler hands products and sums, with the operations between them, to a library,
# YNNPACK, and its memory analysis does not see the library's own memory.
_WITHOUT_LIBRARY: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


class Backend(NamedTuple):
    """A client map and the reason for its choice."""

    client_map: ClientMap
    why: str  # in a few words
    auto: bool = False  # whether a client map that needs less memory may replace it

    @property
    def name(self) -> str:
        """Return the client map's name in the configuration."""
        return self.client_map.name

    def smaller(self) -> "Backend | None":
        """Return the sequential variant, which needs less memory; None if it may not be chosen."""
        if not self.auto or self.client_map.sequential:
            return None
        instead = self.client_map._replace(sequential=True)
        return Backend(instead, "vmap does not fit its memory")


class Workload(NamedTuple):
    """The properties of a client's step on which the choice depends."""

    parameters: int
    convolutions: bool


def workload(params: Any) -> Workload:
    """Describe the work of a model with `params` (arrays or their shapes)."""
    leaves = jax.tree.leaves(params)
    return Workload(sum(leaf.size for leaf in leaves), any(leaf.ndim == 4 for leaf in leaves))


def pick(platform: str, devices: int, work: Workload, processes: int = 1) -> Backend:
    """Choose the client map of ``auto``, if memory allows.

    On a CPU `vmap` makes batched matrix products that run on one thread, so one client after the
    other is faster unless the work is so small that the loop's overhead dominates; accelerators
    want all clients in one program, over all devices.

    Args:
        platform: as JAX names it.
        devices: the number of devices over all processes.
        work: of one client's step.
        processes: the number of processes that run the same program; each must get clients.
    """
    if platform != "cpu":
        return Backend(ClientMap(False, devices > 1), "fits its memory", auto=True)
    small = not work.convolutions and work.parameters <= _FEW_PARAMETERS
    why = "a small model" if small else "faster on a CPU"
    return Backend(ClientMap(not small, processes > 1), why)


def choose(asked: str, work: Workload, before: str = "") -> Backend:
    """Choose the client map to run with.

    Args:
        asked: one of `NAMES`.
        work: of one client's step.
        before: the client map that computed the checkpoint to resume from, or "": ``auto`` keeps
            it, so that a resumed run has the same bits as one that was never stopped.

    Raises:
        UserError: The client map leaves other processes without work.
    """
    platform, processes = jax.default_backend(), jax.process_count()
    wanted = ClientMap(platform == "cpu", True) if asked == "sharded" else CLIENT_MAPS.get(asked)
    if processes > 1 and wanted and not wanted.sharded:
        raise UserError(
            f"map_clients={asked} uses one device of one process, and there are "
            f"{processes} processes: expected auto or sharded."
        )
    if wanted:
        return Backend(wanted, "as asked for")
    picked = pick(platform, jax.device_count(), work, processes)
    if (kept := CLIENT_MAPS.get(before)) and (processes == 1 or kept.sharded):
        return Backend(kept, "as before", picked.auto)
    return picked


def bytes_needed(lowered: jax.stages.Lowered) -> float:
    """Compile a program and return the bytes that it takes on each device when it runs.

    On accelerators `jax.jit` keeps the compiled program and does not compile it again for the same
    shapes. On a CPU the program is compiled here without the library, so that XLA itself holds
    every array.
    """
    options = _WITHOUT_LIBRARY if jax.default_backend() == "cpu" else None
    try:
        memory = lowered.compile(options).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return float("inf")
    if memory is None:  # the backend does not report it
        return 0.0
    return float(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        - memory.alias_size_in_bytes
    )


def bytes_free() -> float:
    """Return the bytes that a round may take on each local device; infinity if unknown."""
    every = [device.memory_stats() or {} for device in jax.local_devices()]
    return min(
        _SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        if "bytes_limit" in stats
        else float("inf")
        for stats in every
    )


def check_platforms() -> None:
    """Refuse JAX_PLATFORMS if it names devices that JAX does not find.

    Raises:
        UserError: The message says what JAX said, which is nothing if its plug-in is missing.
    """
    if not (asked := os.environ.get("JAX_PLATFORMS", "")):
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS={printable(asked)} asks for devices that JAX does not find "
            f"({said[:200] or 'its plug-in is not installed'}): unset it, or give "
            "JAX_PLATFORMS=cpu."
        ) from error


def repeat_bits() -> None:
    """Set XLA's determinism flag, without which a GPU may add in an order that depends on timing.

    Has an effect only before the first use of a device; a value in the environment is kept.
    """
    if _DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        deterministic = f"{os.environ.get('XLA_FLAGS', '')} --{_DETERMINISTIC}=true"
        os.environ["XLA_FLAGS"] = deterministic.strip()


def repeatable() -> dict[str, Any]:
    """Give `jax.jit` the option that has the effect of `repeat_bits` on one program, at any time.

    For programs that use the library, which have often used a device before they train. Empty on
    other devices than GPUs, and if the environment turns determinism off.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    off = any(f"{_DETERMINISTIC}={value}" in flags for value in ("false", "0"))
    return {} if off or jax.default_backend() != "gpu" else {_DETERMINISTIC: True}
