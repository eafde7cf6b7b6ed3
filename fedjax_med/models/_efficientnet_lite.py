"""EfficientNet-Lite: EfficientNet (Tan & Le, ICML 2019) for small devices, in several sizes.

The variants that TensorFlow published in 2020: no squeeze-and-excite, ReLU6 for swish, stem and
head of fixed width. Each convolution has a bias in place of the original's batch normalisation,
which can be folded into it: there are no running statistics that a federation could average
wrongly.
"""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from fedjax_med import ops
from fedjax_med.core.model import RGB, Model, Tensors
from fedjax_med.core.types import Array, Params
from fedjax_med.models import _pooling, from_nnx
from fedjax_med.models.pretrained import batch_norm_folding


class Stage(NamedTuple):
    """Blocks of one shape; only the first of them changes the number of channels and the size."""

    expansion: int
    side: int  # of the depthwise kernel
    stride: int  # of the first block
    channels: int
    blocks: int


class Variant(NamedTuple):
    """A size of the network."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def num_blocks(self) -> int:
        """Count the blocks of all stages."""
        return sum(stage.blocks for stage in self.stages)

    def channels(self) -> list[int]:
        """List the channels of each block's output."""
        return [stage.channels for stage in self.stages for _ in range(stage.blocks)]


_STAGES = (
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
)
_FIRST, _LAST = Stage(1, 3, 1, 16, 1), Stage(6, 3, 1, 320, 1)
_STEM, _HEAD = 32, 1280  # channels, of every variant
_MULTIPLE = 8  # of which the numbers of channels are
SMALLEST = (32, "give larger images (image_size)")  # the product of all strides
# TensorFlow's weights were trained with (x - 127) / 128 of the values 0 to 255.
_MEAN: RGB = (127 / 255,) * 3
_STD: RGB = (128 / 255,) * 3
_EPSILON = 1e-3  # of the batch normalisation that is folded away
# Without normalisation only the initial kernels keep the values in range: a convolution preserves
# its input's variance, which a ReLU before it has halved (He et al., ICCV 2015), and residual
# branches add little to their input (Zhang et al., ICLR 2019).
_AFTER_RELU, _AFTER_SUM, _BRANCH = 2.0, 1.0, 2.0 / 9


def variant(name: str, width: float, depth: float) -> Variant:
    """Scale the network's channels by `width` and the blocks of its inner stages by `depth`."""

    def wide(stage: Stage) -> Stage:
        wanted = stage.channels * width
        nearest = max(_MULTIPLE, int(wanted + _MULTIPLE / 2) // _MULTIPLE * _MULTIPLE)
        # As in EfficientNet: rounding takes at most a tenth of the channels.
        return stage._replace(channels=nearest + _MULTIPLE * (nearest < 0.9 * wanted))

    inner = [stage._replace(blocks=math.ceil(stage.blocks * depth)) for stage in _STAGES]
    return Variant(name, tuple(map(wide, (_FIRST, *inner, _LAST))))


LITE0 = variant("efficientnet_lite0", 1.0, 1.0)
LITE1 = variant("efficientnet_lite1", 1.0, 1.1)
LITE2 = variant("efficientnet_lite2", 1.1, 1.2)


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
    """Some of a variant's blocks, in order, with their original numbers."""

    def _add_stem(self, channels: int, rngs: nnx.Rngs) -> None:
        self.stem = _conv(channels, _STEM, 3, rngs, gain=_AFTER_SUM, stride=2)

    def _add_blocks(self, of: Variant, numbers: range, rngs: nnx.Rngs) -> None:
        width, number = _STEM, 0
        for expansion, side, stride, features, repeats in of.stages:
            for repeat in range(repeats):
                if number in numbers:
                    block = Block(width, features, expansion, side, 1 if repeat else stride, rngs)
                    setattr(self, f"block_{number}", block)
                width, number = features, number + 1
        self.numbers = numbers

    def _run_blocks(self, images: Array) -> list[Array]:
        """Return the output of each block."""
        maps = []
        for number in self.numbers:
            images = getattr(self, f"block_{number}")(images)
            maps.append(images)
        return maps


class Frozen(_Blocks):
    """The stem and the first blocks, which are not trained if `frozen_blocks` is above 0."""

    def __init__(self, of: Variant, channels: int, blocks: int, rngs: nnx.Rngs):
        self._add_stem(channels, rngs)
        self._add_blocks(of, range(blocks), rngs)

    def __call__(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the next block's input from images [B, H, W, ch]."""
        del rngs
        return self._run_blocks(nnx.relu6(self.stem(images)))[-1]


class Layers(Frozen):
    """The stem and all blocks, with the moments of the outputs of many of them."""

    def __init__(self, of: Variant, channels: int, rngs: nnx.Rngs):
        super().__init__(of, channels, of.num_blocks, rngs)
        self.first = _first_layer(of)

    def __call__(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute mean and deviation of each channel, block by block: [B, H, W, ch] -> [B, D]."""
        del rngs
        maps = self._run_blocks(nnx.relu6(self.stem(images)))[self.first :]
        return jnp.concatenate([_pooling.moments(one) for one in maps], axis=-1)


class EfficientNetLite(_Blocks):
    """Stem, blocks, head, global average pooling, dropout, a linear classifier.

    With frozen blocks its input is the output of `Frozen` instead of images.
    """

    def __init__(
        self,
        of: Variant,
        channels: int,
        num_classes: int,
        dropout: float,
        rngs: nnx.Rngs,
        frozen_blocks: int,
    ):
        if not frozen_blocks:
            self._add_stem(channels, rngs)
        self._add_blocks(of, range(frozen_blocks, of.num_blocks), rngs)
        self.head = _conv(of.stages[-1].channels, _HEAD, 1, rngs, gain=_AFTER_SUM)
        self.dropout = nnx.Dropout(dropout)
        self.classifier = nnx.Linear(_HEAD, num_classes, rngs=rngs)

    def features(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the classifier's input: [B, H, W, ch] -> [B, D]; without `rngs` no dropout."""
        if self.numbers.start == 0:
            images = nnx.relu6(self.stem(images))
        if self.numbers:
            images = self._run_blocks(images)[-1]
        pooled = jnp.mean(nnx.relu6(self.head(images)), axis=(1, 2))
        return self.dropout(pooled, deterministic=rngs is None, rngs=rngs)

    def __call__(self, images: Array, *, rngs: nnx.Rngs | None) -> Array:
        """Compute the logits: [B, H, W, ch] -> [B, K]; without `rngs` no dropout."""
        return self.classifier(self.features(images, rngs=rngs))


def names_of_lukemelas(of: Variant) -> dict[str, tuple[str, str]]:
    """Map our layers to EfficientNet-PyTorch's names of convolution and normalisation."""
    names = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for number in range(of.num_blocks):
        block = f"_blocks.{number}."
        for norm, layer in enumerate(("expand", "depthwise", "project")):
            names[f"block_{number}/{layer}"] = (f"{block}_{layer}_conv", f"{block}_bn{norm}")
    return names


def names_of_timm(of: Variant) -> dict[str, tuple[str, str]]:
    """Map our layers to the names in timm's ``tf_efficientnet_lite0`` and its siblings."""
    names, number = {"stem": ("conv_stem", "bn1"), "head": ("conv_head", "bn2")}, 0
    for place, stage in enumerate(of.stages):
        parts = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
        if stage.expansion == 1:
            parts = {"depthwise": "conv_dw", "project": "conv_pw"}
        for repeat in range(stage.blocks):
            block = f"blocks.{place}.{repeat}."
            for norm, (layer, part) in enumerate(parts.items(), start=1):
                names[f"block_{number}/{layer}"] = (block + part, f"{block}bn{norm}")
            number += 1
    return names


def pretrained(of: Variant, tensors: Tensors, params: Params) -> Params:
    """Load pretrained weights into `params`, batch normalisation folded into kernels and biases.

    Args:
        of: the variant of the network.
        tensors: named as in lukemelas's EfficientNet-PyTorch or timm's ``tf_efficientnet_lite0``.
        params: from ``init``. The classifier stays, unless the weights have as many classes.

    Raises:
        UserError: A tensor is missing or has another shape.
    """
    timm = "conv_stem.weight" in tensors
    names = names_of_timm(of) if timm else names_of_lukemelas(of)

    def taken(place: str, branch: Params) -> Params:
        if place == "classifier":
            return batch_norm_folding.dense(tensors, place if timm else "_fc", branch)
        if "kernel" in branch:
            return batch_norm_folding.fold(tensors, *names[place], branch, _EPSILON)
        return {name: taken(f"{place}/{name}", layer) for name, layer in branch.items()}

    return {name: taken(name, branch) for name, branch in params.items()}


def of_imagenet(model: Model, of: Variant) -> Model:
    """Give `model` the image normalisation of TensorFlow's weights, and their loader."""
    return model._replace(mean=_MEAN, std=_STD, pretrained=functools.partial(pretrained, of))


def _first_layer(of: Variant) -> int:
    """Return the number of the first block whose output is of use: earlier ones see edges only."""
    return sum(stage.blocks for stage in of.stages[:2])


def layers(of: Variant) -> tuple[Model, int]:
    """Build the model whose ``apply`` gives the moments of its blocks [B, D], and D."""

    def make(channels: int, rngs: nnx.Rngs) -> nnx.Module:
        return Layers(of, channels, rngs)

    size = 2 * sum(of.channels()[_first_layer(of) :])
    return of_imagenet(from_nnx(make, *SMALLEST), of), size
