"""Which images are the same one: copies by their bytes, near-duplicates by hash and pixels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.types import Split

# Of 256 bits. On the nine-class ISIC set the three pairs that are the same photograph with other
# colours differ in at most 5 bits; of the other 2.5 million pairs none differs in fewer than 21.
MAX_HASH_DISTANCE = 10
# Grey levels of 255, on average; tells apart the images without structure, which share one hash.
MAX_PIXEL_DISTANCE = 16.0

_ROWS = 512  # rows of the distance matrix that are held at a time

Int32 = npt.NDArray[np.int32]


def duplicate_groups(split: Split) -> Int32:
    """Number the images of a split, so that copies and near-duplicates share a number.

    Near-duplicates are found by a 256-bit difference hash and confirmed by their pixels; the groups
    are the connected components, so what is alike through a third image is one group.

    Args:
        split: The images, ``N`` of them.

    Returns:
        int32 `[N]`: numbers from 0, in the order of first appearance.
    """
    return number(split.sha256, split.image_hash, split.image)[1]


def members(group: Int32) -> Iterator[Int32]:
    """The positions of every group of two or more, in the order of first appearance."""
    order = np.argsort(group, kind="stable").astype(np.int32)
    for same in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(same) > 1:
            yield same


def number(
    sha256: npt.NDArray[np.str_],
    image_hash: npt.NDArray[np.uint8],
    image: npt.NDArray[np.uint8],
) -> tuple[Int32, Int32]:
    """Number the images twice: by copies alone, and by copies and near-duplicates.

    Args:
        sha256: Hex digests `[N]`; equal ones are copies.
        image_hash: uint8 `[N, 32]`.
        image: uint8 `[N, H, W, ch]`.

    Returns:
        Two int32 `[N]`, each with numbers from 0 in the order of first appearance.
    """
    _, first, inverse = np.unique(sha256, return_index=True, return_inverse=True)
    left, right = _near_pairs(image_hash[first], image[first])
    return _numbered(inverse), _numbered(_components(len(first), left, right)[inverse])


def _numbered(group: npt.NDArray[np.integer[Any]]) -> Int32:
    """The same groups, numbered from 0 in the order of first appearance."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def _components(
    count: int, left: npt.NDArray[np.intp], right: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """The connected components of a graph: each vertex's least connected vertex."""
    group = np.arange(count)
    while True:
        least = np.minimum(group[left], group[right])
        if (group[left] == least).all() and (group[right] == least).all():
            return group
        np.minimum.at(group, left, least)
        np.minimum.at(group, right, least)


def _near_pairs(
    image_hash: npt.NDArray[np.uint8], image: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The pairs within both distances, as two arrays of positions."""
    # With bits as +1 and -1 the product of two hashes is 256 - 2 x their Hamming distance.
    sign = 2 * np.unpackbits(image_hash, axis=1).astype(np.float32) - 1
    pairs = [np.zeros((2, 0), np.intp)]
    for start in range(0, len(sign), _ROWS):
        product = sign[start : start + _ROWS] @ sign[start:].T
        hits = np.flatnonzero(product >= 256 - 2 * MAX_HASH_DISTANCE)
        near = np.stack(np.unravel_index(hits, product.shape)) + start
        near = near[:, near[0] < near[1]]
        for block in np.array_split(near, near.shape[1] // _ROWS + 1, axis=1):
            apart = np.abs(image[block[0]].astype(np.int16) - image[block[1]])
            pairs.append(block[:, apart.mean(axis=(1, 2, 3)) <= MAX_PIXEL_DISTANCE])
    left, right = np.concatenate(pairs, axis=1)
    return left, right
