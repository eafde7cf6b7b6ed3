"""Settings of JAX outside of the experiment: those that are set, and those that are recorded."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import jax

# Settings of JAX by which every random number or every dtype changes, at the values that the pinned
# figures were computed with. The environment does not decide on them.
_FIXED: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
}
# Settings that change the last bits, with what they are by themselves.
_RECORDED: dict[str, Any] = {
    "jax_default_matmul_precision": None,
    "jax_disable_jit": False,
    "jax_threefry_gpu_kernel_lowering": False,
}
_ENVIRONMENT = ("NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS")
# Flags of XLA that change no number, or that are recorded otherwise.
_HARMLESS = (
    "--xla_force_host_platform_device_count",
    "--xla_dump",
    "--xla_gpu_deterministic_ops=true",
)


def fix_settings() -> dict[str, Any]:
    """Set JAX's settings by which every number would change; return what differed before."""
    there = {name: value for name, value in _FIXED.items() if name in jax.config.values}
    before = {name: getattr(jax.config, name) for name in there}
    different = {name: old for name, old in before.items() if str(old) != str(_FIXED[name])}
    for name in different:
        jax.config.update(name, _FIXED[name])
    return different


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """Hold JAX's settings as `fix_settings` sets them, and restore them afterwards."""
    before = fix_settings()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def settings() -> dict[str, str]:
    """List the settings outside of the experiment by which the last bits may change, if any is set.

    Returns:
        Names, as in the environment, with their values; {} where all are as they are by themselves.
    """
    values = jax.config.values
    found = {name: values.get(name, usual) for name, usual in _RECORDED.items()}
    changed = {
        name.upper(): str(value) for name, value in found.items() if value != _RECORDED[name]
    }
    given = {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    flags = sorted(
        flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_HARMLESS)
    )
    return changed | given | ({"XLA_FLAGS": " ".join(flags)} if flags else {})
