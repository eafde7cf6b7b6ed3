"""EfficientNet-Lite0: EfficientNet-B0 (Tan & Le, ICML 2019) for small devices.

The variant that TensorFlow published in 2020: no squeeze-and-excite, ReLU6 for swish, stem and head
of fixed width. Each convolution has a bias in place of the original's batch normalisation, which
can be folded into it: there are no running statistics that a federation could average wrongly.
"""

import jax.numpy as jnp
from flax import nnx

from fedjax_med import ops
from fedjax_med.core.model import RGB, Model, Tensors
from fedjax_med.core.types import Array, Params
from fedjax_med.errors import UserError
from fedjax_med.models import from_nnx
from fedjax_med.models.pretrained import batch_norm_folding

# Expansion, side of the depthwise kernel, stride of the first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM, _HEAD = 32, 1280
_NUM_BLOCKS = sum(stage[-1] for stage in _STAGES)
_TOTAL_STRIDE = 32
# TensorFlow's weights were trained with (x - 127) / 128 of the values 0 to 255.
_MEAN: RGB = (127 / 255,) * 3
_STD: RGB = (128 / 255,) * 3
_EPSILON = 1e-3  # of the batch normalisation that is folded away
# Without normalisation only the initial kernels keep the values in range: a convolution preserves
# its input's variance, which a ReLU before it has halved (He et al., ICCV 2015), and residual
# branches add little to their input (Zhang et al., ICLR 2019).
_AFTER_RELU, _AFTER_SUM, _BRANCH = 2.0, 1.0, 2.0 / 9


def _conv(
    channels: int,
    features: int,
    side: int,
    rngs: nnx.Rngs,
    *,
    gain: float = _AFTER_RELU,
    stride: int = 1,
    groups: int = 1,
) -> nnx.Conv:
    return nnx.Conv(
        channels,
        features,
        (side, side),
        strides=(stride, stride),
        feature_group_count=groups,
        kernel_init=nnx.initializers.variance_scaling(gain, "fan_in", "truncated_normal"),
        conv_general_dilated=ops.conv_general_dilated,
        rngs=rngs,
    )


class Block(nnx.Module):
    """Inverted residual (Sandler et al., CVPR 2018): expand, filter each channel, project."""

    def __init__(
        self, channels: int, features: int, expansion: int, side: int, stride: int, rngs: nnx.Rngs
    ):
        inner = channels * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and channels == features
        if self.expands:
            self.expand = _conv(channels, inner, 1, rngs, gain=_AFTER_SUM)
        self.depthwise = _conv(inner, inner, side, rngs, stride=stride, groups=inner)
        self.project = _conv(inner, features, 1, rngs, gain=_BRANCH if self.skips else _AFTER_RELU)

    def __call__(self, images: Array) -> Array:
        """Apply it: [B, H, W, channels] -> [B, ceil(H / stride), ceil(W / stride), features]."""
        inner = nnx.relu6(self.expand(images)) if self.expands else images
        result: Array = self.project(nnx.relu6(self.depthwise(inner)))
        return images + result if self.skips else result


class _Blocks(nnx.Module):
    """Some of the sixteen blocks, in order, with their original numbers."""

    def _add_blocks(self, numbers: range, rngs: nnx.Rngs) -> None:
        width, number = _STEM, 0
        for expansion, side, stride, features, repeats in _STAGES:
            for repeat in range(repeats):
                if number in numbers:
                    block = Block(width, features, expansion, side, 1 if repeat else stride, rngs)
                    setattr(self, f"block_{number}", block)
                width, number = features, number + 1
        self.numbers = numbers

    def _run_blocks(self, images: Array) -> Array:
        for number in self.numbers:
            images = getattr(self, f"block_{number}")(images)
        return images


class Frozen(_Blocks):
    """The stem and the first blocks, which are not trained if `frozen_blocks` is above 0."""

    def __init__(self, channels: int, blocks: int, rngs: nnx.Rngs):
        self.stem = _conv(channels, _STEM, 3, rngs, gain=_AFTER_SUM, stride=2)
        self._add_blocks(range(blocks), rngs)

    def __call__(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the next block's input from images [B, H, W, ch]."""
        del rngs
        return self._run_blocks(nnx.relu6(self.stem(images)))


class EfficientNetLite0(_Blocks):
    """Stem, sixteen blocks, head, global average pooling, dropout, a linear classifier.

    With frozen blocks its input is the output of `Frozen` instead of images.
    """

    def __init__(
        self, channels: int, num_classes: int, dropout: float, rngs: nnx.Rngs, frozen_blocks: int
    ):
        if not frozen_blocks:
            self.stem = _conv(channels, _STEM, 3, rngs, gain=_AFTER_SUM, stride=2)
        self._add_blocks(range(frozen_blocks, _NUM_BLOCKS), rngs)
        self.head = _conv(_STAGES[-1][3], _HEAD, 1, rngs, gain=_AFTER_SUM)
        self.dropout = nnx.Dropout(dropout)
        self.classifier = nnx.Linear(_HEAD, num_classes, rngs=rngs)

    def features(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the classifier's input: [B, H, W, ch] -> [B, D]; without `rngs` no dropout."""
        if self.numbers.start == 0:
            images = nnx.relu6(self.stem(images))
        images = self._run_blocks(images)
        pooled = jnp.mean(nnx.relu6(self.head(images)), axis=(1, 2))
        return self.dropout(pooled, deterministic=rngs is None, rngs=rngs)

    def __call__(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the logits: [B, H, W, ch] -> [B, K]; without `rngs` no dropout."""
        return self.classifier(self.features(images, rngs=rngs))


def _names_of_lukemelas() -> dict[str, tuple[str, str]]:
    """Map our layers to EfficientNet-PyTorch's names of convolution and normalisation."""
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for number in range(_NUM_BLOCKS):
        block = f"_blocks.{number}."
        for norm, layer in enumerate(("expand", "depthwise", "project")):
            names[f"block_{number}/{layer}"] = (f"{block}_{layer}_conv", f"{block}_bn{norm}")
    return names


def _names_of_timm() -> dict[str, tuple[str, str]]:
    """Map our layers to the names in timm's ``tf_efficientnet_lite0``."""
    names, number = {"stem": ("conv_stem", "bn1"), "head": ("conv_head", "bn2")}, 0
    for stage, (expansion, *_, repeats) in enumerate(_STAGES):
        parts = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        if expansion == 1:
            parts = {"depthwise": "conv_dw", "project": "conv_pw"}
        for repeat in range(repeats):
            block = f"blocks.{stage}.{repeat}."
            for norm, (layer, part) in enumerate(parts.items(), start=1):
                names[f"block_{number}/{layer}"] = (block + part, f"{block}bn{norm}")
            number += 1
    return names


def pretrained(tensors: Tensors, params: Params) -> Params:
    """Load pretrained weights into `params`, batch normalisation folded into kernels and biases.

    Args:
        tensors: named as in lukemelas's EfficientNet-PyTorch or timm's ``tf_efficientnet_lite0``.
        params: from ``init``. The classifier stays, unless the weights have as many classes.

    Raises:
        UserError: A tensor is missing or has another shape.
    """
    timm = "conv_stem.weight" in tensors
    names = _names_of_timm() if timm else _names_of_lukemelas()

    def taken(place: str, branch: Params) -> Params:
        if place == "classifier":
            return batch_norm_folding.dense(tensors, place if timm else "_fc", branch)
        if "kernel" in branch:
            return batch_norm_folding.fold(tensors, *names[place], branch, _EPSILON)
        return {name: taken(f"{place}/{name}", layer) for name, layer in branch.items()}

    return {name: taken(name, branch) for name, branch in params.items()}


def build(num_classes: int, *, dropout: float = 0.2, frozen_blocks: int = 0) -> Model:
    """Build EfficientNet-Lite0, with 3,350,000 parameters below the classifier for colour images.

    Args:
        num_classes: K, the number of logits.
        dropout: probability that a feature is zeroed before the classifier, in training.
        frozen_blocks: 0 trains all. Above 0 the stem and that many of the 16 blocks keep their
            initial weights, and the trained model's input is their output.

    Raises:
        UserError: An option is out of range or, in ``init``, the image is too small.
    """
    if not 0 <= dropout < 1:
        raise UserError(
            f"expected model efficientnet_lite0 to have dropout in [0, 1), got {dropout}."
        )
    if not 0 <= frozen_blocks <= _NUM_BLOCKS:
        raise UserError(
            f"expected model efficientnet_lite0 to have 0 to {_NUM_BLOCKS} frozen_blocks, got "
            f"{frozen_blocks}."
        )

    def make(channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return EfficientNetLite0(channels, num_classes, dropout, rngs, frozen_blocks)

    def make_frozen(channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return Frozen(channels, frozen_blocks, rngs)

    smallest = (_TOTAL_STRIDE, "give larger images (image_size)")
    if not frozen_blocks:
        return _of_imagenet(from_nnx(make, *smallest, tells_features=True))
    frozen = _of_imagenet(from_nnx(make_frozen, *smallest))
    return _of_imagenet(from_nnx(make, tells_features=True))._replace(frozen=frozen)


def _of_imagenet(model: Model) -> Model:
    """Give `model` the image normalisation of TensorFlow's weights, and their loader."""
    return model._replace(mean=_MEAN, std=_STD, pretrained=pretrained)
