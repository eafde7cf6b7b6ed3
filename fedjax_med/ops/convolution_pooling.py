"""A 3x3 convolution followed by 2x2 max pooling, as one operation."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_med.core.types import Array
from fedjax_med.ops import winograd
from fedjax_med.ops.convolution import conv_general_dilated
from fedjax_med.ops.patches import patches
from fedjax_med.ops.pixels import matrix_product, sum_of_products
from fedjax_med.ops.platform import platform
from fedjax_med.ops.pooling import max_pool
from fedjax_med.ops.winograd import Grid


def conv_max_pool(image: Array, kernel: Array) -> Array:
    """Compute ``max_pool(convolution, 2)`` of a convolution with stride 1 and padding "SAME".

    On a CPU the full output of a 3x3 convolution is never assembled: each pooling square consists
    of the four parts of the output (`fedjax_med.ops.winograd`) at the same position.

    Args:
        image: float [B, H, W, ch].
        kernel: float [kernel height, kernel width, ch, features].

    Returns:
        float [B, H // 2, W // 2, features].
    """
    if platform() != "cpu" or kernel.shape[:2] != (3, 3):
        numbers = ("NHWC", "HWIO", "NHWC")
        full = conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return max_pool(full, 2)
    return _conv_max_pool(image, kernel)


def _few_channels(kernel: Array) -> bool:
    return min(kernel.shape[2:]) < winograd.MIN_CHANNELS


def _wide_patches(image: Array) -> list[Array]:
    """Extract the 3x4 windows that two neighbouring outputs share, per row parity of the output."""
    height, width = image.shape[1] // 2, image.shape[2] // 2
    columns = (1, 2 * width + 1 - image.shape[2])
    both: list[Array] = []
    for parity in range(2):
        rows = (1 - parity, 2 * height + parity - image.shape[1])
        cut = image[:, : image.shape[1] + min(rows[1], 0)]
        both.append(patches(cut, (3, 4), (2, 2), ((rows[0], max(rows[1], 0)), columns)))
    kept: list[Array] = lax.optimization_barrier(both)
    return kept


def _wide_kernels(kernel: Array) -> list[Array]:
    """Build the kernel for each column parity of the output: 2 times [12 * ch, features]."""
    pads = [((0, 0), (parity, 1 - parity), (0, 0), (0, 0)) for parity in range(2)]
    return [jnp.pad(kernel, pad).reshape(-1, kernel.shape[-1]) for pad in pads]


def _wide_kernel_gradient(both: list[Array], parts: Grid, channels: int) -> Array:
    columns = []
    for column in range(2):
        products = [sum_of_products(both[row], parts[row][column]) for row in range(2)]
        wide = (products[0] + products[1]).reshape(3, 4, channels, -1)
        columns.append(wide[:, column : column + 3])
    return columns[0] + columns[1]


def _parts(image: Array, kernel: Array) -> tuple[Grid, Any]:
    """Compute the convolution's output in parts, and the patches that its derivative needs."""
    if _few_channels(kernel):
        both, kernels = _wide_patches(image), _wide_kernels(kernel)
        return [[matrix_product(wide, one) for one in kernels] for wide in both], both
    tiles = winograd.tiles_of_image(image, image.shape[1] // 2, image.shape[2] // 2)
    return winograd.convolve(tiles, kernel), None


def _largest(parts: Grid) -> tuple[Array, Array]:
    """Compute the maximum of the four parts, and the index of the first part that has it."""
    (a, b), (c, d) = parts
    largest = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
    first = jnp.where(a == largest, 0, jnp.where(b == largest, 1, jnp.where(c == largest, 2, 3)))
    kept: tuple[Array, Array] = lax.optimization_barrier((largest, first.astype(jnp.int8)))
    return kept


@jax.custom_vjp
def _conv_max_pool(image: Array, kernel: Array) -> Array:
    return _largest(_parts(image, kernel)[0])[0]


def _forward(image: Array, kernel: Array) -> tuple[Array, Any]:
    parts, patches_ = _parts(image, kernel)
    largest, first = _largest(parts)
    return largest, (image, kernel, first, patches_)


def _backward(saved: Any, cotangent: Array) -> tuple[Array, Array]:
    image, kernel, first, patches_ = saved
    cotangent = lax.optimization_barrier(cotangent)
    parts = [
        [jnp.where(first == 2 * row + column, cotangent, 0) for column in range(2)]
        for row in range(2)
    ]
    parts = lax.optimization_barrier(parts)
    height, width = image.shape[1:3]
    pads = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))  # pooling has cut an odd row or column
    whole = [[jnp.pad(part, pads) for part in row] for row in parts]
    to_image = winograd.convolve(winograd.tiles_of_parts(whole), winograd.flipped(kernel))
    if patches_ is not None:
        to_kernel = _wide_kernel_gradient(patches_, parts, image.shape[-1])
    else:
        tiles = winograd.tiles_of_image(image, height // 2, width // 2)
        to_kernel = winograd.kernel_gradient(tiles, parts)
    return winograd.join(lax.optimization_barrier(to_image), height, width), to_kernel


_conv_max_pool.defvjp(_forward, _backward)
