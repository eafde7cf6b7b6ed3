"""The workloads' networks and data in PyTorch, with the same first weights.

Layers have the names that they have in fedjax_med, so that the weights find their place.
"""

import functools
import itertools
import json
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# Expansion, side of the depthwise kernel, stride of the first block, channels, blocks. Written
# again, since this runs where fedjax_med's packages are not installed; the losses are compared.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class CNNBlock(nn.Module):
    """Convolution, halving of the image, group normalisation, ReLU."""

    def __init__(self, channels: int, features: int, groups: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, features, 3, padding=1, bias=False)
        self.normalisation = nn.GroupNorm(groups, features, eps=1e-6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = functional.max_pool2d(self.convolution(images), 2)
        return functional.relu(self.normalisation(images))


class CNN(nn.Module):
    """`fedjax_med.models.cnn`, block for block."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        for number, (channels, features) in enumerate(itertools.pairwise((3, *widths))):
            self.add_module(f"block_{number}", CNNBlock(channels, features, 8))
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, ch, H, W] to logits [B, K]."""
        for name, block in self.named_children():
            images = block(images) if name.startswith("block_") else images
        return self.classifier(images.mean((2, 3)))


class SameConv2d(nn.Conv2d):
    """TensorFlow's "SAME" for images of even sides: what is odd of the padding comes after."""

    def __init__(self, channels: int, features: int, side: int, stride: int, groups: int = 1):
        padding = side // 2 if stride == 1 else 0
        super().__init__(channels, features, side, stride, padding, groups=groups)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.stride[0] > 1:
            before = []
            for length in images.shape[:1:-1]:
                total = max((-(-length // 2) - 1) * 2 + self.kernel_size[0] - length, 0)
                before += [total // 2, total - total // 2]
            images = functional.pad(images, before)
        return super().forward(images)


class LiteBlock(nn.Module):
    """Inverted residual."""

    def __init__(self, channels: int, features: int, expansion: int, side: int, stride: int):
        super().__init__()
        inner = channels * expansion
        self.skips = stride == 1 and channels == features
        self.expand = nn.Conv2d(channels, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(inner, inner, side, stride, groups=inner)
        self.project = nn.Conv2d(inner, features, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = images
        if self.expand is not None:
            inner = functional.relu6(self.expand(inner), inplace=True)
        inner = functional.relu6(self.depthwise(inner), inplace=True)
        return self.project(inner) + images if self.skips else self.project(inner)


class EfficientNetLite0(nn.Module):
    """`fedjax_med.models.efficientnet_lite0`, block for block."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = SameConv2d(3, 32, 3, 2)
        width, number = 32, 0
        for expansion, side, stride, features, repeats in STAGES:
            for repeat in range(repeats):
                block = LiteBlock(width, features, expansion, side, 1 if repeat else stride)
                self.add_module(f"block_{number}", block)
                width, number = features, number + 1
        self.head = nn.Conv2d(width, 1280, 1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, ch, H, W] to logits [B, K]."""
        images = functional.relu6(self.stem(images), inplace=True)
        for name, block in self.named_children():
            images = block(images) if name.startswith("block_") else images
        images = functional.relu6(self.head(images), inplace=True)
        return self.classifier(images.mean((2, 3)))


class Linear(nn.Module):
    """`fedjax_med.models.linear`, on images that are rows already."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(pixels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, H * W * ch] to logits [B, K]."""
        return self.classifier(images)


class Work:
    """A workload file: tensors for each client, a model with the first weights.

    A client's images are in the order of the first round, so that its batches are slices. All of it
    lies on a GPU where fedjax_med trains on one.
    """

    def __init__(self, file: str) -> None:
        data = np.load(file)
        self.about = json.loads(str(data["about"]))
        self.device = torch.device("cuda" if self.about["platform"] == "gpu" else "cpu")
        image, label = data["image"], data["label"].astype(np.int64)
        for images, labels, order in zip(image, label, data["order"], strict=True):
            images[:], labels[:] = images[order.ravel()], labels[order.ravel()]
        self.label = torch.from_numpy(label).to(self.device)
        self.cohorts = data["cohorts"].tolist()
        image = torch.from_numpy(image).to(self.device)
        if self.about["name"] == "linear":
            self.image = list(image.flatten(2))
        else:
            self.image = [
                one.contiguous(memory_format=torch.channels_last) for one in image.movedim(-1, 2)
            ]
        self._weights = {key: data[key] for key in data.files if key.startswith("params/")}

    def wait(self) -> str:
        """Wait until the device has done what it was told; its name."""
        if self.device.type == "cpu":
            return "cpu"
        torch.cuda.synchronize()
        return torch.cuda.get_device_name()

    def batches(self, client: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Images and labels of each of the client's steps."""
        size = self.about["batch_size"]
        return zip(self.image[client].split(size), self.label[client].split(size), strict=True)

    def cohort(self, number: int) -> list[int]:
        """Who takes part in this round, counted from 0."""
        return self.cohorts[number % len(self.cohorts)]

    def _new(self) -> nn.Module:
        name, classes = self.about["name"], len(self._weights["params/classifier/bias"])
        if name == "cnn":
            return CNN(classes)
        if name == "efficientnet_lite0":
            return EfficientNetLite0(classes)
        return Linear(classes, self.image[0].shape[1])

    def model(self) -> nn.Module:
        """A new model with the first weights."""
        model = self._new()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                place = "params/" + name.replace(".", "/").removesuffix("/weight")
                if name.endswith(".bias"):
                    value = self._weights[place]
                elif f"{place}/scale" in self._weights:
                    value = self._weights[f"{place}/scale"]
                else:  # kernels have their features last
                    value = self._weights[f"{place}/kernel"]
                    value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
                parameter.copy_(torch.from_numpy(value.copy()))
        return model.to(self.device, memory_format=torch.channels_last)

    def loss(self, model: nn.Module) -> float:
        """Mean cross-entropy over all clients' examples."""
        with torch.inference_mode():
            parts = [
                functional.cross_entropy(model(images), labels, reduction="sum")
                for image, label in zip(self.image, self.label, strict=True)
                for images, labels in zip(image.split(64), label.split(64), strict=True)
            ]
        return float(sum(parts)) / self.label.numel()


@functools.cache
def work(file: str) -> Work:
    """`file`, read once in each process."""
    return Work(file)


@functools.cache
def client_model(file: str) -> nn.Module:
    """A model to train clients with, made once in each process."""
    return work(file).model()
