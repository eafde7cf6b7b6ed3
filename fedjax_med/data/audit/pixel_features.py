"""Plain statistics of the pixels of images: what can be told of them without a trained network.

They know colours, contrast and grain, not shapes. That they do not tell two classes apart proves
little; that they tell two sources apart shows that any network can.
"""

import itertools

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Images

_BLOCK = 64  # images at a time
_HALVINGS = 5  # scales: every pixel, means of 2 x 2, and so on to 16 x 16


def statistics(images: Images) -> npt.NDArray[np.float32]:
    """Compute the statistics of images uint8 ``[N, H, W, ch]``: ``[N, D]``.

    These are, of each channel: the mean; the mean of the inner half less that of all; and at each
    scale the standard deviation over positions and the mean difference of neighbours.
    """
    blocks = range(0, len(images), _BLOCK)
    made = [_of_block(np.asarray(images[at : at + _BLOCK])) for at in blocks]
    return np.concatenate(made).astype(np.float32)


def _of_block(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    shown: npt.NDArray[np.float32] = np.asarray(pixels, np.float32) / np.float32(255)
    height, width = shown.shape[1:3]
    inner = shown[:, height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None]
    mean = shown.mean(axis=(1, 2))
    found = [mean, inner.mean(axis=(1, 2)) - mean]
    for _ in range(_HALVINGS):
        if min(shown.shape[1:3]) < 2:
            break
        steps = [np.abs(np.diff(shown, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
        found += [shown.std(axis=(1, 2)), steps[0] + steps[1]]
        shown = _halved(shown)
    return np.concatenate(found, axis=1)


def _halved(shown: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Average 2 x 2 pixels; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in shown.shape[1:3])
    corners = itertools.product((0, 1), (0, 1))
    parts = [shown[:, row:height:2, column:width:2] for row, column in corners]
    return np.asarray(sum(parts[1:], parts[0]) / 4, np.float32)


def of_maps(maps: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Compute the mean and standard deviation over positions of feature maps.

    Args:
        maps: ``[N, h, w, ch]``, or features ``[N, D]``, which are returned.

    Returns:
        ``[N, 2 * ch]``.
    """
    maps = np.asarray(maps, np.float32)
    if maps.ndim == 2:
        return maps
    flat = maps.reshape(len(maps), -1, maps.shape[-1])
    return np.concatenate([flat.mean(axis=1), flat.std(axis=1)], axis=1)
