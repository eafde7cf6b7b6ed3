"""Operations with backend-dependent lowerings: one definition, the fastest form on each backend.

The lowering is chosen when a function is traced, by platform and shapes (`traced_for` sets another
platform than that of this machine). On accelerators convolutions and pooling are always XLA's own.
On a CPU, XLA runs a convolution inside a loop body, or one with a batched kernel (as under `vmap`
over clients), several to dozens of times slower than the same sums written as matrix products.
"""

from typing import Any

import jax

from fedjax_med.ops.convolution import conv_general_dilated
from fedjax_med.ops.convolution_pooling import conv_max_pool
from fedjax_med.ops.normalisation import group_norm
from fedjax_med.ops.platform import platform as platform
from fedjax_med.ops.platform import traced_for as traced_for
from fedjax_med.ops.pooling import max_pool

__all__ = [
    "compiler_options",
    "conv_general_dilated",
    "conv_max_pool",
    "group_norm",
    "max_pool",
    "micro_batch",
]


def micro_batch() -> int:
    """Give the best number of images to process at a time; 0 means the whole batch.

    Training a small network on a CPU is memory-bound, and the data of a few images stay in the
    cache. An accelerator is fastest on the whole batch.
    """
    return 4 if platform() == "cpu" else 0


def compiler_options() -> dict[str, Any]:
    """Give `jax.jit` options with which the lowerings run fastest; results do not change.

    Before jax 0.11.1 XLA's CPU compiler drops optimisation barriers before it fuses loops, so that
    each of a transform's many consumers recomputes the value that the barrier should keep; later
    versions drop them after fusion. Barriers that stay to the end must not get into a kernel, whose
    emitter does not support them: fusion never includes one, but the pass that turns a whole loop
    over a few bytes into one kernel would, so it is disabled too.
    """
    if jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11, 1):
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting"}
