"""Shared array types.

Shape letters: ``C`` clients, ``N`` examples, ``B`` batch, ``H W ch`` image height, width and
channels, ``K`` classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Key = jax.Array  # a new-style key from jax.random.key
Params = Any  # a pytree of arrays
Message = Any  # a pytree of arrays that a client sends
Metrics = dict[str, Array]  # sums over examples, so adding two gives the metrics of both


class Examples(NamedTuple):
    """Images and labels with padding marked; the leading axes are the same in all three.

    ``[N]`` on the host or in a batch, ``[C, N]`` when the clients are stacked.
    """

    # uint8 [*lead, H, W, ch], or features of frozen blocks, float16 [*lead, V, h, w, ch].
    image: Array
    label: Array  # int32 [*lead]
    mask: Array  # bool  [*lead]; False is padding and never counts


# (params, examples [B], key) -> (gradient of the mean loss over the real examples, sums)
GradFn = Callable[[Params, Examples, Key], tuple[Params, Metrics]]
