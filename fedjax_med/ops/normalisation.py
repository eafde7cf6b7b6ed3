"""Group normalisation."""

import jax.numpy as jnp
from jax import lax

from fedjax_med.core.types import Array


def group_norm(image: Array, scale: Array, bias: Array, groups: int, epsilon: float) -> Array:
    """Apply group normalisation (Wu & He, ECCV 2018) over each image's pixels and channel groups.

    Sums over the pixels of each channel first, then over the few channels of a group: a sum over
    both at once is not vectorised on CPUs.

    Args:
        image: float [B, H, W, ch].
        scale: float [ch].
        bias: float [ch].
        groups: their number, a divisor of ch; each has ch / groups neighbouring channels.
        epsilon: added to the variance.

    Returns:
        float [B, H, W, ch].
    """
    batch, height, width, channels = image.shape
    pixels = image.reshape(batch, height * width, channels)
    each = channels // groups

    def group_mean(per_channel: Array) -> Array:
        return per_channel.reshape(batch, groups, each).mean(-1)

    mean = group_mean(pixels.mean(1))
    square = group_mean(jnp.square(pixels).mean(1))
    inverse = lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + epsilon)
    factor = jnp.repeat(inverse, each, axis=-1) * scale[None]
    shift = bias[None] - jnp.repeat(mean, each, axis=-1) * factor
    return (pixels * factor[:, None] + shift[:, None]).reshape(image.shape)
