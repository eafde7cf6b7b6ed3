"""An embedded, synthetic nine-class set of dermoscopy-like images: drawn, nothing to download.

The classes are dermoscopic patterns, not diagnoses, and no image shows a patient: the set is for
trying out and testing the program. Its seed alone decides every image. A linear model on the pixels
stays far below 0.6 balanced accuracy, a small convolutional network passes 0.8.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.data.datasets import _dermatoscope, _lesion_drawing
from fedjax_med.data.datasets._dermatoscope import photograph
from fedjax_med.data.datasets._lesion_drawing import PATTERNS, draw
from fedjax_med.data.images import array_record, decode, kept
from fedjax_med.data.images.decode import perceptual_hash
from fedjax_med.errors import UserError, expand

CLASS_NAMES = tuple(sorted(PATTERNS))

# Relative class frequencies in the training split: imbalanced, up to 3 to 1.
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

Rows = Callable[[], Iterator[array_record.Row]]


def class_sizes(weights: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.int64]:
    """Divide `total` images among classes in proportion to `weights` (Sainte-Lague method).

    A larger `total` never makes a class smaller, so a larger set contains every smaller one.

    Args:
        weights: ``[K]``, positive.
        total: the number of images.

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
    images: str = "memory",
    crop: str = "centre",
    *,
    seed: int = 0,
    train_size: int = 1800,
    test_size: int = 315,
) -> Dataset:
    """Draw the data set, or read it from the cache.

    Args:
        data_dir: must be empty, since this set has no files.
        cache_dir: where the drawn images are kept. They are drawn once: a few seconds per 1,000
            images on a free core.
        image_size: the side of the images in pixels, at least 16. Structures are fine: from 48
            on, all can be distinguished.
        images: ``memory``, ``disk`` or ``auto``: where the images are kept during use.
        crop: without effect, since the drawn images are square.
        seed: decides every image. Image i of a class does not depend on how many are drawn.
        train_size: the number of training images; the largest class is three times the smallest.
        test_size: the number of test images, equal for all classes (to within 1).

    Returns:
        The data set; its ``sha256`` is that of the pixels' bytes, its ``client`` is -1.

    Raises:
        UserError: `data_dir` is given, a number is out of range, or `cache_dir` cannot be written.
    """
    del crop
    if data_dir:
        raise UserError(
            f"--data_dir={data_dir}: the data set 'lesions' is drawn and takes no folder: leave "
            "--data_dir out, or set --config.dataset.name=image_folder."
        )
    _check("image_size", image_size, _MIN_IMAGE_SIZE)
    check_options(seed=seed, train_size=train_size, test_size=test_size)
    weights = np.array([_TRAIN_WEIGHTS[name] for name in CLASS_NAMES])
    sizes = {
        "train": class_sizes(weights, train_size),
        "test": class_sizes(np.ones_like(weights), test_size),
    }
    streams = {"train": (seed, 0), "test": (seed, 1)}
    rows = {
        split: functools.partial(_rows, streams[split], counts, image_size)
        for split, counts in sizes.items()
        if counts.any()
    }
    of = [str(number) for number in (seed, train_size, test_size, image_size)]
    disk = array_record.on_disk(images, train_size + test_size, image_size)
    train, test = _kept(expand(cache_dir), of, rows, image_size, disk)
    return Dataset("lesions", CLASS_NAMES, train, test)


def check_options(*, seed: int = 0, train_size: int = 1800, test_size: int = 315) -> None:
    """Refuse options that are out of their range."""
    _check("dataset.options.seed", seed, 0)
    _check("dataset.options.train_size", train_size, len(CLASS_NAMES))
    _check("dataset.options.test_size", test_size, 0)


def _check(field: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"Expected --config.{field} of at least {least}, got {value}.")


def _rows(
    stream: tuple[int, int], sizes: npt.NDArray[np.int64], image_size: int
) -> Iterator[array_record.Row]:
    """Draw images 0 to ``sizes[k] - 1`` of each class k; `stream`: the seed, the split's number."""
    for label, name in enumerate(CLASS_NAMES):
        for i in range(sizes[label]):
            entropy = np.random.SeedSequence([*stream, label, i])
            rng = np.random.Generator(np.random.PCG64(entropy))
            image = photograph(rng, draw(rng, name, image_size))
            yield {
                "image": image,
                "label": label,
                "name": f"{name}/lesion_{i:05}.png",
                "sha256": hashlib.sha256(image.tobytes()).hexdigest(),
                "image_hash": perceptual_hash(image),
                "client": -1,
                "reason": "",
                "levels": "",
            }


class Lesions(array_record.Builder):
    """Writes the drawn images."""


def _kept(
    cache_dir: Path, of: list[str], rows: Mapping[str, Rows], image_size: int, disk: bool
) -> list[Split]:
    """Read the splits in `cache_dir`, drawn now or by an earlier run of the same code."""
    files = [
        __file__,
        *(module.__file__ for module in (_lesion_drawing, _dermatoscope, decode)),
    ]
    code = [Path(file or "").read_text("utf-8") for file in files]
    folder = cache_dir.absolute() / "lesions" / array_record.digest([*of, *code])
    there = array_record.place(Lesions, folder)
    make = functools.partial(Lesions, rows, image_size)

    def prepare() -> None:
        count = int(of[1]) + int(of[2])
        print(f"Drawing {count:,} images; kept in {cache_dir}.", file=sys.stderr)
        array_record.check_space(cache_dir, count, image_size)
        array_record.write(make, there)

    read = functools.partial(array_record.read, make, there, ("train", "test"), disk)
    return kept.read_or_prepare(there, cache_dir, prepare, read).splits
