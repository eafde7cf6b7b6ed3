"""The workloads' networks and data in PyTorch, with the same first weights."""

import functools
import itertools
import json

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class CNN(nn.Module):
    """`fedjax_med.models.cnn`, block for block."""

    def __init__(self, widths: list[int], classes: int, groups: int = 8) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairs]
        )
        self.norms = nn.ModuleList([nn.GroupNorm(groups, b, eps=1e-6) for _, b in pairs])
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, ch, H, W] to logits [B, K]."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            images = functional.relu(norm(functional.max_pool2d(convolution(images), 2)))
        return self.classifier(images.mean((2, 3)))


class Work:
    """A workload file: tensors for each client, its batches, a model with the first weights."""

    def __init__(self, file: str) -> None:
        data = np.load(file)
        self.about = json.loads(str(data["about"]))
        self.order = torch.from_numpy(data["order"].astype(np.int64))
        self.label = torch.from_numpy(data["label"].astype(np.int64))
        channels_first = torch.from_numpy(data["image"]).movedim(-1, 2)
        self.image = [one.contiguous(memory_format=torch.channels_last) for one in channels_first]
        self._weights = {key: data[key] for key in data.files if key.startswith("params/")}

    def model(self) -> nn.Module:
        """A new model with the first weights."""
        kernels = sorted(key for key in self._weights if key.endswith("convolution/kernel"))
        widths = [self._weights[kernels[0]].shape[2]]
        widths += [self._weights[key].shape[3] for key in kernels]
        model = CNN(widths, self._weights["params/classifier/bias"].shape[0])
        with torch.no_grad():
            for number, (convolution, norm) in enumerate(
                zip(model.convolutions, model.norms, strict=True)
            ):
                block = f"params/block_{number}/"
                kernel = self._weights[block + "convolution/kernel"]
                convolution.weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()))
                norm.weight.copy_(torch.from_numpy(self._weights[block + "normalisation/scale"]))
                norm.bias.copy_(torch.from_numpy(self._weights[block + "normalisation/bias"]))
            kernel = self._weights["params/classifier/kernel"]
            model.classifier.weight.copy_(torch.from_numpy(kernel.T.copy()))
            model.classifier.bias.copy_(torch.from_numpy(self._weights["params/classifier/bias"]))
        return model.to(memory_format=torch.channels_last)

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
