"""Which way to map over the clients: the one asked for, or what suits the machine and fits it."""

from typing import Any, NamedTuple

import jax

from fedjax_med.core.client_map import STRATEGIES
from fedjax_med.errors import UserError

NAMES = ("auto", *STRATEGIES, "sharded")
_SHARE = 0.9  # of a device's free memory that a round may plan with; the rest is lost in gaps
_FEW_PARAMETERS = 10_000  # up to here `vmap` is the faster one for dense layers on a CPU
# XLA's CPU compiler leaves products and sums to a library, YNNPACK, with all that lies between
# them, and its memory analysis does not see what a library takes for itself.
_WITHOUT_LIBRARY: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}


class Choice(NamedTuple):
    """A strategy and the reason for it."""

    name: str  # of `fedjax_med.core.client_map.STRATEGIES`
    why: str  # in a few words
    auto: bool = False  # whether it may be exchanged for one that needs less memory


class Work(NamedTuple):
    """What a client's step computes, as far as the choice depends on it."""

    parameters: int
    convolutions: bool


def work_of(params: Any) -> Work:
    """The work of a model with `params` (arrays or their shapes)."""
    leaves = jax.tree.leaves(params)
    return Work(sum(leaf.size for leaf in leaves), any(leaf.ndim == 4 for leaf in leaves))


def pick(platform: str, devices: int, work: Work, processes: int = 1) -> Choice:
    """What ``auto`` is, if memory allows.

    On a CPU `vmap` makes batched matrix products that run on one thread, so one client after the
    other is faster unless the work is so small that the loop itself is what costs; accelerators
    want all clients in one program, over all devices.

    Args:
        platform: as JAX names it.
        devices: all of them, over all processes.
        work: of one client's step.
        processes: that run the same program; each must get its clients.
    """
    if platform != "cpu":
        many = devices > 1
        return Choice("sharded_vmap" if many else "vmap", "fits its memory", auto=True)
    small = not work.convolutions and work.parameters <= _FEW_PARAMETERS
    within, why = ("vmap", "a small model") if small else ("sequential", "faster on a CPU")
    return Choice(f"sharded_{within}" if processes > 1 else within, why)


def choose(asked: str, work: Work, before: str = "") -> Choice:
    """The strategy to run with.

    Args:
        asked: one of `NAMES`.
        work: of one client's step.
        before: what computed the checkpoint that the run goes on from: ``auto`` keeps to it, so
            that the continued run has the bits of one that was never stopped.

    Raises:
        UserError: The strategy leaves other processes without work.
    """
    platform, processes = jax.default_backend(), jax.process_count()
    if asked == "sharded":
        asked = "sharded_sequential" if platform == "cpu" else "sharded_vmap"
    many = asked == "auto" or asked.startswith("sharded")
    if processes > 1 and not many:
        raise UserError(
            f"--config.map_clients={asked} uses one device of one process, and there are "
            f"{processes} processes: expected auto or sharded."
        )
    if asked != "auto":
        return Choice(asked, "as asked for")
    picked = pick(platform, jax.device_count(), work, processes)
    if before in STRATEGIES and (processes == 1 or before.startswith("sharded")):
        return Choice(before, "as before", picked.auto)
    return picked


def smaller(name: str) -> str:
    """What gives the same as the strategy `name` with the memory of one client at a time."""
    return name.replace("vmap", "sequential")


def bytes_needed(lowered: jax.stages.Lowered) -> float:
    """What a program takes of each device's memory when it runs; compiles it.

    On accelerators `jax.jit` keeps what is compiled here and does not compile it again for the same
    shapes. On a CPU the program is compiled without the library for this, so that XLA itself holds
    every array.
    """
    options = _WITHOUT_LIBRARY if jax.default_backend() == "cpu" else None
    try:
        memory = lowered.compile(options).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return float("inf")
    if memory is None:  # a backend that does not tell
        return 0.0
    return float(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        - memory.alias_size_in_bytes
    )


def bytes_free() -> float:
    """The memory that a round may take on each of this process's devices; infinity if unknown."""
    every = [device.memory_stats() or {} for device in jax.local_devices()]
    return min(
        _SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
        if "bytes_limit" in stats
        else float("inf")
        for stats in every
    )
