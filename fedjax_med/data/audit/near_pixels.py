"""Finds which of some images look the same, without comparing every pair of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Images

# Mean difference in grey levels of 255; separates images without structure, whose hash is equal.
MAX_PIXEL_DISTANCE = 16.0

_BLOCK = 512  # images whose pixels are compared at a time
_STRIPES = 16  # parts of an image whose sums bound its distance from others

Index = npt.NDArray[np.intp]
Near = Callable[[int, Index], npt.NDArray[np.bool_]]


def links(images: Sequence[Images], place: Index, near_hash: Near) -> Iterator[tuple[int, Index]]:
    """Link the images that look the same, each to one that was linked before.

    The links connect the same images as all near pairs would, but are fewer than the images. Time
    is that of comparing each image with those not yet linked: linear in images that are alike.

    Args:
        images: uint8 ``[N, H, W, ch]``, in consecutive parts.
        place: of the ``n`` images to compare, in `images`.
        near_hash: tells which of some positions in `place` may look like one of them.

    Yields:
        A position in `place`, and those that look like it and were not linked yet.
    """
    held = _read(images, place) if len(place) <= _BLOCK else None

    def pixels(index: Index) -> npt.NDArray[np.uint8]:
        return _read(images, place[index]) if held is None else held[index]

    sums = np.concatenate(
        [_sums(pixels(block)) for block in np.array_split(np.arange(len(place)), _blocks(place))]
    )
    size = np.prod(images[0].shape[1:])

    def near(one: int, others: Index) -> npt.NDArray[np.bool_]:
        found = near_hash(one, others)
        # The difference of sums is at most the sum of differences.
        apart = np.abs(sums[others[found]] - sums[one]).sum(axis=1) / size
        found[found] = apart <= MAX_PIXEL_DISTANCE
        here = pixels(np.array([one])).astype(np.int16)
        left = np.flatnonzero(found)
        for block in np.array_split(left, _blocks(left)):
            apart = np.abs(pixels(others[block]) - here).mean(axis=(1, 2, 3))
            found[block] = apart <= MAX_PIXEL_DISTANCE
        return found

    yield from _flood(len(place), near)


def _blocks(index: Index) -> int:
    return max(1, -(-len(index) // _BLOCK))


def _flood(count: int, near: Near) -> Iterator[tuple[int, Index]]:
    """Go from each of `count` positions to those near it that nobody has come to yet."""
    rest = np.arange(count)
    while len(rest):
        front, rest = [int(rest[0])], rest[1:]
        while front and len(rest):
            one = front.pop()
            reached = near(one, rest)
            if reached.any():
                yield one, rest[reached]
                front += rest[reached].tolist()
                rest = rest[~reached]


def _sums(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Sum the values of each channel in stripes: ``[n, H, W, ch]`` to ``[n, stripes * ch]``."""
    flat = pixels.reshape(len(pixels), -1, pixels.shape[-1])
    starts = np.unique(np.linspace(0, flat.shape[1], _STRIPES, endpoint=False).astype(np.intp))
    return np.add.reduceat(flat, starts, axis=1, dtype=np.int64).reshape(len(flat), -1)


def _read(images: Sequence[Images], place: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Read the images at `place`, counted over all parts: ``[n, H, W, ch]``."""
    found = np.empty((len(place), *images[0].shape[1:]), np.uint8)
    start = 0
    for part in images:
        here = (place >= start) & (place < start + len(part))
        found[here] = np.asarray(part[place[here] - start])
        start += len(part)
    return found
