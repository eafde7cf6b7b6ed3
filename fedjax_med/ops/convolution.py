"""Convolution of images, with the interface of `jax.lax.conv_general_dilated`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_med.core.types import Array
from fedjax_med.ops import winograd
from fedjax_med.ops.depthwise import depthwise
from fedjax_med.ops.patches import explicit_padding, patches
from fedjax_med.ops.pixels import matrix_product
from fedjax_med.ops.platform import platform


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: Any,
    *,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """Compute `jax.lax.conv_general_dilated` of images, in the fastest form for the backend.

    On CPUs: Winograd's filtering for 3x3 windows with stride 1, sums of shifted products for
    depthwise convolutions, and otherwise one matrix product of the image's windows. Dilated and
    other grouped convolutions are XLA's own everywhere.

    Args:
        lhs: images float [B, H, W, ch].
        rhs: kernel float [kernel height, kernel width, ch / groups, features].
        window_strides: the strides of the window, one for each image axis.
        padding: "SAME", "VALID" or a (before, after) pair for each image axis.
        lhs_dilation: as in `jax.lax`.
        rhs_dilation: as in `jax.lax`.
        feature_group_count: as in `jax.lax`.
        **options: as in `jax.lax`; the dimension numbers are NHWC, HWIO, NHWC.

    Returns:
        Images float [B, H', W', features].
    """
    dilated = any(step != 1 for step in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    is_depthwise = 1 < feature_group_count == lhs.shape[-1] == rhs.shape[-1]
    plain = not dilated and (feature_group_count == 1 or is_depthwise)
    if platform() != "cpu" or not plain or not _is_usual(lhs, rhs, options):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            feature_group_count=feature_group_count,
            **options,
        )
    window, strides = (rhs.shape[0], rhs.shape[1]), (window_strides[0], window_strides[1])
    pads = explicit_padding(lhs.shape[1:3], window, strides, padding)
    if min(min(pad) for pad in pads) < 0:
        lhs = lax.pad(
            lhs, jnp.zeros((), lhs.dtype), [(0, 0, 0), *((*p, 0) for p in pads), (0, 0, 0)]
        )
        pads = ((0, 0), (0, 0))
    if is_depthwise:
        return depthwise(lhs, rhs, strides, pads)
    same = window == (3, 3) and strides == (1, 1) and pads == ((1, 1), (1, 1))
    if same and min(rhs.shape[2:]) >= winograd.MIN_CHANNELS:
        return _winograd(lhs, rhs)
    return matrix_product(patches(lhs, window, strides, pads), rhs.reshape(-1, rhs.shape[-1]))


def _is_usual(lhs: Array, rhs: Array, options: dict[str, Any]) -> bool:
    """Check that these are channels-last images, with no other options than the defaults."""
    if lhs.ndim != 4:
        return False
    given = options.get("dimension_numbers")
    numbers = [
        lax.conv_dimension_numbers(lhs.shape, rhs.shape, one)
        for one in (given, ("NHWC", "HWIO", "NHWC"))
    ]
    others = [value for name, value in options.items() if name != "dimension_numbers"]
    return numbers[0] == numbers[1] and all(value in (None, 1) for value in others)


def _halves(image: Array) -> tuple[int, int]:
    return (image.shape[1] + 1) // 2, (image.shape[2] + 1) // 2


@jax.custom_vjp
def _winograd(image: Array, kernel: Array) -> Array:
    """Compute the 3x3 convolution with stride 1 and zero padding to the same size."""
    tiles = winograd.tiles_of_image(image, *_halves(image))
    output = winograd.join(winograd.convolve(tiles, kernel), *image.shape[1:3])
    kept: Array = lax.optimization_barrier(output)
    return kept


def _winograd_forward(image: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _winograd(image, kernel), (image, kernel)


def _winograd_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    # The automatic derivative would sum 16 overlapping padded tiles and transpose large matrices.
    image, kernel = saved
    cotangent = lax.optimization_barrier(cotangent)
    tiles = winograd.tiles_of_image(image, *_halves(image))
    return (
        _winograd(cotangent, winograd.flipped(kernel)),
        winograd.kernel_gradient(tiles, winograd.split(cotangent)),
    )


_winograd.defvjp(_winograd_forward, _winograd_backward)
