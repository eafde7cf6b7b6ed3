"""Operations whose fastest form depends on the backend: one definition, several lowerings.

The lowering is chosen when a function is traced, by platform and shapes. On accelerators
convolutions and pooling are always XLA's own. On a CPU, XLA runs a convolution inside a loop body,
or one with a batched kernel (what `vmap` over clients makes of it), several to dozens of times
slower than the same sums written as matrix products.
"""

from typing import Any

import jax

from fedjax_med.ops.convolution import conv_general_dilated
from fedjax_med.ops.convolution_pooling import conv_max_pool
from fedjax_med.ops.normalisation import group_norm
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
    """How many images a network had best see at a time; 0 is all of a batch.

    Training a small network on a CPU is bound by its memory: what a few images need stays in the
    cache. An accelerator wants all that it can get.
    """
    return 4 if jax.default_backend() == "cpu" else 0


def compiler_options() -> dict[str, Any]:
    """Options for `jax.jit` under which the lowerings are at their fastest; results stay the same.

    Before jax 0.11.1 XLA's CPU compiler drops optimisation barriers before it fuses loops, and then
    computes again in each of a transform's many readers what the barrier was to keep; later ones do
    so afterwards. Barriers that stay to the end must not come inside a kernel, whose emitter does
    not know them: no fusion takes one in; the pass that makes one kernel of a whole loop over a few
    bytes would, so it is left out too.
    """
    if jax.default_backend() != "cpu" or jax.__version_info__ >= (0, 11, 1):
        return {}
    return {"xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting"}
