"""A small convolutional network with group normalisation (Wu & He, 2018).

Group normalisation keeps no running statistics, which would differ between clients with different
cases (Hsieh et al., 2020, "The Non-IID Data Quagmire").
"""

import jax.numpy as jnp
from flax import nnx

from fedjax_med import ops
from fedjax_med.core.model import Model
from fedjax_med.core.types import Array
from fedjax_med.errors import UserError
from fedjax_med.models import from_nnx


class GroupNorm(nnx.GroupNorm):
    """Flax's group normalisation, computed by `fedjax_med.ops.group_norm`."""

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalise: [B, H, W, ch] -> [B, H, W, ch]."""
        assert mask is None
        assert self.scale is not None
        assert self.bias is not None
        return ops.group_norm(x, self.scale[...], self.bias[...], self.num_groups, self.epsilon)


class Block(nnx.Module):
    """Convolution, max pooling that halves the image, group normalisation, ReLU."""

    def __init__(self, channels: int, features: int, groups: int, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(channels, features, (3, 3), use_bias=False, rngs=rngs)
        self.normalisation = GroupNorm(features, num_groups=groups, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Apply the block: [B, H, W, ch] -> [B, H // 2, W // 2, features]."""
        # Pooling comes first, so that only a quarter of the values must be normalised.
        pooled = ops.conv_max_pool(images, self.convolution.kernel[...])
        return nnx.relu(self.normalisation(pooled))


class CNN(nnx.Module):
    """Blocks, global average pooling, dropout, a linear classifier."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        widths: tuple[int, ...],
        groups: int,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        sizes = (channels, *widths)
        self.num_blocks = len(widths)
        for i in range(len(widths)):  # attributes, since parameter names should be strings
            setattr(self, f"block_{i}", Block(sizes[i], sizes[i + 1], groups, rngs))
        self.dropout = nnx.Dropout(dropout)
        self.classifier = nnx.Linear(sizes[-1], num_classes, rngs=rngs)

    def features(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the classifier's input: [B, H, W, ch] -> [B, D]; without `rngs` no dropout."""
        for i in range(self.num_blocks):
            images = getattr(self, f"block_{i}")(images)
        pooled = jnp.mean(images, axis=(1, 2))
        return self.dropout(pooled, deterministic=rngs is None, rngs=rngs)

    def __call__(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the logits: [B, H, W, ch] -> [B, K]; without `rngs` no dropout."""
        return self.classifier(self.features(images, rngs=rngs))


def build(
    num_classes: int,
    *,
    widths: tuple[int, ...] = (32, 64, 128),
    groups: int = 8,
    dropout: float = 0.0,
) -> Model:
    """Build a CNN with one block for each entry of `widths`; each block halves the image.

    Args:
        num_classes: K, the number of logits.
        widths: channels of the blocks' outputs, each a multiple of `groups`.
        groups: number of groups of the group normalisation.
        dropout: probability that a feature is zeroed before the classifier, in training.

    Raises:
        UserError: The options are invalid or, in ``init``, the image is too small.
    """
    whole = all(isinstance(width, int) for width in widths)
    if not (whole and widths) or groups < 1 or any(w < 1 or w % groups for w in widths):
        raise UserError(
            "expected model cnn to have widths that are multiples of groups, got "
            f"widths={tuple(widths)} and groups={groups}."
        )
    if not 0 <= dropout < 1:
        raise UserError(f"expected model cnn to have dropout in [0, 1), got {dropout}.")

    def make(channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return CNN(channels, num_classes, tuple(widths), groups, dropout, rngs)

    remedy = "give larger images (image_size) or fewer widths"
    return from_nnx(make, 2 ** len(widths), remedy, tells_features=True)
