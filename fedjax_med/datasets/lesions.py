"""An embedded, synthetic nine-class set of dermoscopy-like images: drawn, nothing to download.

The classes are dermoscopic patterns, not diagnoses, and no image shows a patient: the set is for
learning the program and for testing it. It is a function of its seed alone. A linear model on its
pixels stays far below 0.6 balanced accuracy, a small convolutional network passes 0.8.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from fedjax_med.dermatoscope import photograph
from fedjax_med.draw_lesion import PATTERNS, draw
from fedjax_med.errors import UserError
from fedjax_med.images import perceptual_hash
from fedjax_med.types import Dataset, Split

CLASS_NAMES = tuple(sorted(PATTERNS))

# How often a class comes in the training split: imbalanced, by 3 to 1.
_TRAIN_WEIGHTS = {
    "arborizing_vessels": 2.0,
    "atypical_network": 2.0,
    "blotch": 2.0,
    "cobblestone": 2.0,
    "globular": 2.5,
    "lacunar": 1.0,
    "regular_network": 3.0,
    "scaly": 1.5,
    "starburst": 1.5,
}
_MIN_IMAGE_SIZE = 16


def class_sizes(weights: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.int64]:
    """Share `total` images out in proportion to `weights` (the Sainte-Lague method).

    A larger `total` never makes a class smaller, so a grown set contains the one before.

    Args:
        weights: ``[K]``, positive.
        total: The number of images.

    Returns:
        ``[K]``, with sum `total`.
    """
    turn = (np.arange(total) + 0.5) / weights[:, None]  # when class k gets its image i
    first = np.argsort(turn, axis=None, kind="stable")[:total]
    return np.bincount(first // max(total, 1), minlength=len(weights))


def build(
    data_dir: str,
    cache_dir: str,
    image_size: int,
    *,
    seed: int = 0,
    train_size: int = 1800,
    test_size: int = 315,
) -> Dataset:
    """Draw the set.

    Args:
        data_dir: Must be empty: this set is in no folder.
        cache_dir: Not used: drawing takes about four seconds for each 1,000 images of 64 pixels.
        image_size: Side of the images in pixels, at least 16. Structures are fine: from 48 on,
            all of them can be told apart.
        seed: Decides every image. Image i of a class is the same however many are drawn.
        train_size: Number of training images, the most frequent class three times the rarest.
        test_size: Number of test images, equally many of each class (they differ by at most 1).

    Returns:
        Splits whose ``sha256`` is that of the pixels' bytes and whose ``client`` is -1.

    Raises:
        UserError: There is a `data_dir`, or a number is out of its range.
    """
    del cache_dir
    if data_dir:
        raise UserError(
            f"--data_dir={data_dir}: the data set 'lesions' is drawn and takes no folder: leave "
            "--data_dir out, or set --config.dataset.name=image_folder."
        )
    _check("image_size", image_size, _MIN_IMAGE_SIZE)
    _check("dataset.options.seed", seed, 0)
    _check("dataset.options.train_size", train_size, len(CLASS_NAMES))
    _check("dataset.options.test_size", test_size, 0)
    weights = np.array([_TRAIN_WEIGHTS[name] for name in CLASS_NAMES])
    train = _split((seed, 0), class_sizes(weights, train_size), image_size)
    test = _split((seed, 1), class_sizes(np.ones_like(weights), test_size), image_size)
    return Dataset("lesions", CLASS_NAMES, train, test)


def _check(field: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"Expected --config.{field} of at least {least}, got {value}.")


def _split(stream: tuple[int, int], sizes: npt.NDArray[np.int64], image_size: int) -> Split:
    """Images 0 to ``sizes[k] - 1`` of each class k; `stream` is the seed and the split's number."""
    label = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    index = np.concatenate([np.arange(size) for size in sizes])
    image = np.zeros((len(label), image_size, image_size, 3), np.uint8)
    for row, (k, i) in enumerate(zip(label, index, strict=True)):
        entropy = np.random.SeedSequence([*stream, int(k), int(i)])
        rng = np.random.Generator(np.random.PCG64(entropy))
        image[row] = photograph(rng, draw(rng, CLASS_NAMES[k], image_size))
    hashes = np.array([perceptual_hash(one) for one in image], np.uint8)
    return Split(
        image=image,
        label=label,
        name=np.array(
            [f"{CLASS_NAMES[k]}/lesion_{i:05}.png" for k, i in zip(label, index, strict=True)],
            np.str_,
        ),
        sha256=np.array([hashlib.sha256(one.tobytes()).hexdigest() for one in image], np.str_),
        image_hash=hashes.reshape(-1, 32),
        client=np.full(len(label), -1, np.int32),
    )
