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

    ``[N]`` on the host or in a batch, ``[C, N]`` when the clients are stacked. With a loss of its
    own (`fedjax_med.client.mean_gradient`) another task may have any pytrees of arrays instead.

    Attributes:
        image: uint8 [*lead, H, W, ch], or features of frozen blocks, float16 [*lead, V, h, w, ch].
        label: int32 [*lead].
        mask: bool [*lead]; False is padding and never counts.
    """

    image: Any
    label: Any
    mask: Array


# (params, examples [B], key) -> (gradient of the mean loss over the real examples, sums)
# That of `fedjax_med.privacy.private_grad_fn` has an attribute `expected_batch`, by which local
# training refuses other batches; `functools.wraps` hands it on to a function that changes it.
GradFn = Callable[[Params, Examples, Key], tuple[Params, Metrics]]
