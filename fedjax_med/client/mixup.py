"""Random changes of a whole batch: mixup, CutMix and random erasing; inside jit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_med.client.augmentation import Augment
from fedjax_med.core.types import Array, Key

# (prepared images [B, H, W, ch], targets [B, K], mask [B], key) -> (images, targets)
Mix = Callable[[Array, Array, Array, Key], tuple[Array, Array]]
_ERASED = (0.02, 0.33)  # of the image's area, at least and at most (Zhong et al., 2020)


def build(augment: Augment) -> Mix | None:
    """Build the changes that `augment` makes to a batch as a whole; None if there are none.

    Each image's partner is the next real image in the batch; the last one's is the first.

    - ``mixup`` (Zhang et al., ICLR 2018): a weighted mean of both, images and labels;
    - ``cutmix`` (Yun et al., ICCV 2019): a box of the partner, whose label gets the box's share of
      the area; with both options, each image draws one of the two;
    - ``erase`` (random erasing, Zhong et al., AAAI 2020): with this probability a box is set to
      zero, the mean by which the model's images are normalised.

    Features of frozen blocks (`fedjax_med.data.feature_cache`) are mixed in the same way ("manifold
    mixup", Verma et al., ICML 2019).

    Args:
        augment: the random changes; their ranges are checked in `fedjax_med.experiment.validation`.
    """
    if not (augment.mixup or augment.cutmix or augment.erase):
        return None

    def mix(images: Array, targets: Array, mask: Array, key: Key) -> tuple[Array, Array]:
        keys = jax.random.split(key, 3)
        partner = _partners(mask)
        other, other_targets = images[partner], targets[partner]
        # The share of each pixel that the image keeps.
        kept = _kept(augment, images.shape[:3], keys)
        share = jnp.mean(kept, axis=(1, 2))[:, None]
        # Padding may hold anything, NaN included; no real image has it as its partner.
        images = images * kept[..., None] + other * (1.0 - kept[..., None])
        targets = targets * share + other_targets * (1.0 - share)
        if augment.erase:
            images = jnp.where(_erased(augment, images.shape[:3], keys[2]), 0.0, images)
        return images, targets

    return mix


def _partners(mask: Array) -> Array:
    """Give the index of the next real example in the batch for each real one: int32 [B].

    Real examples come first in a batch (`fedjax_med.client.local_training`), so more padding
    changes no partner.
    """
    places = jnp.arange(mask.shape[0])
    following = jnp.where(places + 1 < jnp.sum(mask), places + 1, 0)
    return jnp.where(mask, following, places)


def _kept(augment: Augment, shape: tuple[int, ...], keys: Key) -> Array:
    """Draw the share that each pixel keeps of its own image, from 0 to 1: float32 [B, H, W]."""
    batch = (shape[0],)
    kept = jnp.ones(shape)
    if augment.mixup:
        weight = jax.random.beta(keys[0], augment.mixup, augment.mixup, batch)
        kept = jnp.broadcast_to(weight[:, None, None], shape)
    if augment.cutmix:
        draw_key, box_key, which_key = jax.random.split(keys[1], 3)
        area = jax.random.beta(draw_key, augment.cutmix, augment.cutmix, batch)
        cut = 1.0 - _boxes(shape, area, box_key)
        which = jax.random.bernoulli(which_key, 0.5 if augment.mixup else 1.0, batch)
        kept = jnp.where(which[:, None, None], cut, kept)
    return kept


def _erased(augment: Augment, shape: tuple[int, ...], key: Key) -> Array:
    """Select the pixels of each image to erase: bool [B, H, W, 1]."""
    area_key, box_key, whether_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, shape[:1], minval=_ERASED[0], maxval=_ERASED[1])
    drawn = jax.random.bernoulli(whether_key, augment.erase, shape[:1])
    return (_boxes(shape, area, box_key) & drawn[:, None, None])[..., None]


def _boxes(shape: tuple[int, ...], area: Array, key: Key) -> Array:
    """Draw a box in each image that covers at most the share `area` [B] of it: bool [B, H, W].

    Its centre is anywhere in the image, and parts beyond the edge are cut off.
    """
    batch, height, width = shape
    centre = jax.random.uniform(key, (batch, 2))
    half = jnp.sqrt(area) / 2

    def within(side: int, middle: Array) -> Array:
        pixels = (jnp.arange(side) + 0.5) / side
        return jnp.abs(pixels[None] - middle[:, None]) < half[:, None]

    return within(height, centre[:, 0])[:, :, None] & within(width, centre[:, 1])[:, None, :]
