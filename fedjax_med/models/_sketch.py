"""A random projection that only adds and subtracts: the count sketch."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from fedjax_med.core.types import Array

_SEED = 0  # every client must project by the same signs


def build(size: int, width: int) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Build the functions that project values [B, D] to [B, P], and a kernel [P, K] to [D, K].

    Each value is added, with a random sign, to one of P sums, so that inner products are kept on
    average (Charikar et al., ICALP 2002; Weinberger et al., ICML 2009).

    Args:
        size: D.
        width: P; of at least D, nothing is changed.
    """
    if width >= size:
        return lambda values: values, lambda kernel: kernel
    random = np.random.default_rng(_SEED)
    order = random.permutation(size)
    sign = random.choice(np.array([-1.0, 1.0], np.float32), size)
    depth = -(-size // width)
    place = np.empty(size, np.int64)  # of each value, in which of the P sums it is
    place[order] = np.arange(size) % width

    def project(values: Array) -> Array:
        signed = (values * sign[None])[:, order]
        padded = jnp.pad(signed, ((0, 0), (0, depth * width - size)))
        return jnp.sum(padded.reshape(-1, depth, width), axis=1)

    return project, lambda kernel: kernel[place] * sign[:, None]
