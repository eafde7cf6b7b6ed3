"""Augmentation and normalisation of uint8 image batches, driven by a key; inside jit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_med.core.model import IMAGENET_MEAN, IMAGENET_STD, RGB
from fedjax_med.core.types import Array, Key
from fedjax_med.errors import UserError


@dataclasses.dataclass
class Augment:
    """Random changes of a training image, drawn anew at every step; all off leaves it unchanged."""

    flip: bool = True  # mirror, with probability 1/2
    right_angles: bool = True  # turn by a multiple of 90 degrees
    rotation: float = 15.0  # largest angle in degrees, either way
    min_scale: float = 0.8  # side of the random crop, as a fraction of the image's
    brightness: float = 0.1  # added, as a fraction of the full range
    contrast: float = 0.15  # factor 1 +- this, around the image's mean
    saturation: float = 0.15  # factor 1 +- this, around each pixel's grey
    hue: float = 0.02  # largest shift, in turns of the colour circle
    # For models with frozen blocks, which see an image only once: the number of augmented copies of
    # each mirrored view that are kept beside the view itself, for training to draw from.
    copies: int = 0
    # Likewise: at most so many of the mirrored views are drawn, the most different first.
    views: int = 8
    # These three change a batch as a whole (`fedjax_med.client.mixup`).
    mixup: float = 0.0  # alpha of the beta distribution of the two images' weights; 0: none
    cutmix: float = 0.0  # likewise, of the area's share that is cut from another image
    erase: float = 0.0  # the probability that a box of the image is erased


VIEWS = 8  # the mirrored views of a square image, itself included
_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
# RGB to YIQ, where a turn of the (I, Q) plane is a turn of the hue.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def normalise(
    image: Array,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
    colour_constancy: float = 0.0,
) -> Array:
    """Convert uint8 [..., 3] in 0 to 255 to float32 [..., 3] of about zero mean and unit variance.

    Args:
        image: uint8 [..., 3]; [..., H, W, 3] with `colour_constancy`.
        mean: of each channel on the scale 0 to 1, as in `fedjax_med.core.model.Model`.
        std: likewise.
        colour_constancy: likewise.
    """
    return _standardise(_pixels(image, colour_constancy), mean, std)


def check_images(images: Any) -> None:
    """Refuse what is not uint8 [..., H, W, 3], and say how to convert it.

    Raises:
        UserError: The images are of another type or have other channels, or are no array.
    """
    if not hasattr(images, "dtype"):
        raise UserError(
            f"expected images uint8 [..., H, W, 3], got a {type(images).__name__} of arrays: give "
            "`prepare`, which maps these to the model's input (lambda inputs, key: inputs, if they "
            "are it already)."
        )
    shape, own = images.shape, "or give a `prepare` of your own"
    if images.dtype == jnp.uint8 and shape[-1:] == (3,):
        return
    if len(shape) > 2 and shape[-1] == 3:
        whole = jnp.issubdtype(images.dtype, jnp.integer)
        scaled = "(255 * images).astype('uint8') if they go from 0 to 1 and none is NaN"
        remedy = "images.astype('uint8') if they go from 0 to 255" if whole else scaled
    elif len(shape) > 2 and shape[-1] == 1:
        remedy = "numpy.repeat(images, 3, axis=-1) if they are grey"
    elif len(shape) > 3 and shape[-3] == 3:
        remedy = "numpy.moveaxis(images, 1, -1) if the channels come first"
    else:
        remedy = "numpy.repeat(images[..., None], 3, axis=-1) if they are grey, [N, H, W]"
    raise UserError(
        f"expected images uint8 [..., H, W, 3] with values from 0 to 255, got {images.dtype} "
        f"[{', '.join(map(str, ['N', *shape[1:]]))}]: convert them ({remedy}), {own}."
    )


def _pixels(image: Array, colour_constancy: float) -> Array:
    """Scale uint8 images [..., H, W, 3] to 0 to 1; with `colour_constancy`, as under white light.

    The light is assumed to have the colour of the Minkowski mean over the pixels ("shades of gray",
    Finlayson & Trezzi, CIC 2004; Barata et al., 2015, on dermoscopy).

    Raises:
        UserError: The images are of another type or have other channels.
    """
    check_images(image)
    pixels = image.astype(jnp.float32) / 255.0
    if not colour_constancy:
        return pixels
    powers = jnp.mean(pixels**colour_constancy, axis=(-3, -2), keepdims=True)
    light = jnp.maximum(powers, 1e-12) ** (1.0 / colour_constancy)
    white = jnp.sqrt(jnp.mean(light**2, axis=-1, keepdims=True))
    return jnp.minimum(pixels * (white / light), 1.0)


def _standardise(image: Array, mean: RGB, std: RGB) -> Array:
    lead = (1,) * (image.ndim - 1)
    return (image - jnp.array(mean).reshape(*lead, 3)) / jnp.array(std).reshape(*lead, 3)


def mirrored(images: Any, view: int) -> Any:
    """Give one of the `VIEWS` of square images [B, H, W, ch]; view 0 leaves them unchanged.

    Args:
        images: a NumPy or JAX array.
        view: from the lowest, its bits swap left and right, top and bottom, rows and columns.
    """
    if view & 4:
        images = images.swapaxes(1, 2)
    if view & 2:
        images = images[:, ::-1]
    return images[:, :, ::-1] if view & 1 else images


def _matrices(augment: Augment, key: Key, batch: int) -> tuple[Array, Array]:
    """Draw maps from output to source coordinates: [B, 2, 2] and shift [B, 2], in image sides."""
    keys = jax.random.split(key, 5)
    quarter = jax.random.randint(keys[0], (batch,), 0, 4) * augment.right_angles
    small = jax.random.uniform(keys[1], (batch,), minval=-1.0) * jnp.deg2rad(augment.rotation)
    angle = quarter * (jnp.pi / 2) + small
    mirror = 1.0 - 2.0 * jax.random.bernoulli(keys[2], 0.5, (batch,)) * augment.flip
    scale = jax.random.uniform(keys[3], (batch,), minval=augment.min_scale, maxval=1.0)
    cos, sin = jnp.cos(angle) * scale, jnp.sin(angle) * scale
    matrix = jnp.stack(
        [jnp.stack([cos, -sin * mirror], -1), jnp.stack([sin, cos * mirror], -1)], axis=1
    )
    shift = jax.random.uniform(keys[4], (batch, 2), minval=-0.5, maxval=0.5)
    return matrix, shift * (1.0 - scale)[:, None]


def _reflect(position: Array, size: int) -> Array:
    """Fold positions outside 0 to size - 1 back in, as a mirror at the edge pixels would."""
    period = 2.0 * (size - 1)
    folded = jnp.mod(jnp.abs(position), period)
    return jnp.minimum(folded, period - folded)


def warp(image: Array, matrix: Array, shift: Array) -> Array:
    """Resample every image bilinearly under its own affine map about the image's centre.

    Args:
        image: float [B, H, W, ch].
        matrix: float [B, 2, 2], from (row, column) of the output to those of the source.
        shift: float [B, 2], added to the source position, in image sides.

    Returns:
        float [B, H, W, ch]; positions outside the source are mirrored in.
    """
    batch, height, width, channels = image.shape
    rows = jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2
    columns = jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2
    m, s = matrix[:, :, :, None, None], shift[:, :, None, None]
    row = m[:, 0, 0] * rows[None, :, None] + m[:, 0, 1] * columns[None, None, :] + s[:, 0] * height
    column = (
        m[:, 1, 0] * rows[None, :, None] + m[:, 1, 1] * columns[None, None, :] + s[:, 1] * width
    )
    row = _reflect(row + (height - 1) / 2, height)
    column = _reflect(column + (width - 1) / 2, width)
    top = jnp.clip(jnp.floor(row), 0, max(height - 2, 0))
    left = jnp.clip(jnp.floor(column), 0, max(width - 2, 0))
    down, right = (row - top)[..., None], (column - left)[..., None]
    index = (top * width + left).astype(jnp.int32).reshape(batch, -1, 1)
    flat = image.reshape(batch, -1, channels)

    def at(offset: int) -> Array:
        return jnp.take_along_axis(flat, index + offset, axis=1).reshape(image.shape)

    upper = at(0) * (1 - right) + at(1) * right
    lower = at(width) * (1 - right) + at(width + 1) * right
    return upper * (1 - down) + lower * down


def _colour(augment: Augment, image: Array, key: Key) -> Array:
    """Vary brightness, contrast, saturation and hue of float [B, H, W, 3], each by its own draw."""
    batch = image.shape[0]
    # The image axis leads, so that an image's draws do not depend on how many images follow it.
    draws = jax.random.uniform(key, (batch, 4), minval=-1.0).T[:, :, None, None, None]
    image = image + draws[0] * augment.brightness
    mean = jnp.mean(image, axis=(1, 2, 3), keepdims=True)
    image = mean + (image - mean) * (1.0 + draws[1] * augment.contrast)
    grey = _mix(image, jnp.broadcast_to(jnp.array(_GREY), (batch, 3, 3)))
    image = grey + (image - grey) * (1.0 + draws[2] * augment.saturation)
    if augment.hue:
        image = _mix(image, _hue_matrix(draws[3, :, 0, 0, 0] * augment.hue))
    return jnp.clip(image, 0.0, 1.0)


def _hue_matrix(turns: Array) -> Array:
    """Compute the RGB matrices [B, 3, 3] that turn the hue by `turns` [B] of the colour circle."""
    angle = turns * (2 * jnp.pi)
    cos, sin, one, zero = (
        jnp.cos(angle),
        jnp.sin(angle),
        jnp.ones_like(angle),
        jnp.zeros_like(angle),
    )
    turn = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], -1).reshape(-1, 3, 3)
    yiq = jnp.array(_YIQ)
    return jnp.einsum("ij,bjk,kl->bil", jnp.linalg.inv(yiq), turn, yiq)


def _mix(image: Array, matrix: Array) -> Array:
    """Multiply every pixel by its image's matrix; as sums, since tiny batched dots are slow."""
    m = matrix[:, None, None, :, :]
    return sum(image[..., channel : channel + 1] * m[..., channel] for channel in range(3))  # type: ignore[return-value]


def check(augment: Augment) -> None:
    """Refuse settings that are out of their ranges.

    Raises:
        UserError: The message names the setting.
    """
    if not 0 < augment.min_scale <= 1:
        raise UserError(f"expected --config.augment.min_scale in (0, 1], got {augment.min_scale}.")
    if augment.views not in (1, 2, 4, 8):
        raise UserError(f"expected --config.augment.views 1, 2, 4 or 8, got {augment.views}.")
    for name in ("rotation", "brightness", "contrast", "saturation", "hue"):
        if getattr(augment, name) < 0:
            raise UserError(f"expected --config.augment.{name} >= 0, got {getattr(augment, name)}.")


def build(
    augment: Augment,
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
    colour_constancy: float = 0.0,
) -> Callable[[Array, Key], Array]:
    """Build the function from (uint8 [B, H, W, 3], key) to the augmented, normalised float32 batch.

    Args:
        augment: the random changes.
        mean: as in `normalise`.
        std: likewise.
        colour_constancy: likewise.

    Raises:
        UserError: A setting is out of its range.
    """
    check(augment)

    def prepare(image: Array, key: Key) -> Array:
        shape_key, colour_key = jax.random.split(key)
        pixels = _pixels(image, colour_constancy)
        if augment.flip or augment.right_angles or augment.rotation or augment.min_scale < 1:
            pixels = warp(pixels, *_matrices(augment, shape_key, image.shape[0]))
        if augment.brightness or augment.contrast or augment.saturation or augment.hue:
            pixels = _colour(augment, pixels, colour_key)
        return _standardise(pixels, mean, std)

    return prepare
