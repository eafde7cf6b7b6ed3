"""Finds duplicate images: copies by their bytes, near-duplicates by hash and pixels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Images, Split

# Of 256 bits. On the nine-class ISIC set the three pairs that show one photograph in different
# colours differ in at most 5 bits; the other 2.5 million pairs all differ in at least 21.
MAX_HASH_DISTANCE = 10
# Mean difference in grey levels of 255; separates images without structure, whose hash is equal.
MAX_PIXEL_DISTANCE = 16.0

_BANDS = MAX_HASH_DISTANCE + 1  # parts that a hash is cut into
_BLOCK = 512  # pairs whose pixels are compared at a time

Int32 = npt.NDArray[np.int32]


def duplicate_groups(split: Split) -> Int32:
    """Number the images of a split, so that copies and near-duplicates share a number.

    Near-duplicates are found by a 256-bit difference hash and confirmed by their pixels; the groups
    are the connected components, so images alike through a third share a group.

    Args:
        split: the images, ``N`` of them.

    Returns:
        int32 `[N]`: numbers from 0, in the order of first appearance.
    """
    return number(split.sha256, split.image_hash, (split.image,))[1]


def members(group: Int32) -> Iterator[Int32]:
    """Yield the positions of every group of two or more, in the order of first appearance."""
    order = np.argsort(group, kind="stable").astype(np.int32)
    for same in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(same) > 1:
            yield same


def number(
    sha256: npt.NDArray[np.str_],
    image_hash: npt.NDArray[np.uint8],
    images: Sequence[Images],
) -> tuple[Int32, Int32]:
    """Number the images twice: by copies alone, and by copies and near-duplicates.

    Args:
        sha256: hex digests `[N]`; equal ones are copies.
        image_hash: uint8 `[N, 32]`.
        images: uint8 `[N, H, W, ch]`, in consecutive parts; only candidates are read.

    Returns:
        Two int32 `[N]`, each with numbers from 0 in the order of first appearance.
    """
    _, first, inverse = np.unique(sha256, return_index=True, return_inverse=True)
    left, right = _near_pairs(image_hash[first], first, images)
    return _numbered(inverse), _numbered(_components(len(first), left, right)[inverse])


def _numbered(group: npt.NDArray[np.integer[Any]]) -> Int32:
    """Renumber the groups from 0 in the order of first appearance."""
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int32)


def _components(
    count: int, left: npt.NDArray[np.intp], right: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Label the connected components of a graph by the least vertex of each."""
    group = np.arange(count)
    while True:
        least = np.minimum(group[left], group[right])
        if (group[left] == least).all() and (group[right] == least).all():
            return group
        np.minimum.at(group, left, least)
        np.minimum.at(group, right, least)


def _near_pairs(
    image_hash: npt.NDArray[np.uint8], place: npt.NDArray[np.intp], images: Sequence[Images]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Find the pairs within both distances, as two position arrays; `place` indexes `images`."""
    pairs = [np.zeros((2, 0), np.intp)]
    for block in _near_hashes(image_hash):
        one, other = (_pixels(images, place[side]).astype(np.int16) for side in block)
        apart = np.abs(one - other).mean(axis=(1, 2, 3))
        pairs.append(block[:, apart <= MAX_PIXEL_DISTANCE])
    left, right = np.concatenate(pairs, axis=1)
    return left, right


def _pixels(images: Sequence[Images], place: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    """Read the images at `place`, counted over all parts: ``[n, H, W, ch]``."""
    found = np.empty((len(place), *images[0].shape[1:]), np.uint8)
    start = 0
    for part in images:
        here = (place >= start) & (place < start + len(part))
        found[here] = np.asarray(part[place[here] - start])
        start += len(part)
    return found


def _near_hashes(image_hash: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.intp]]:
    """Yield pairs ``[2, n]`` of hashes within the distance, each pair once, `_BLOCK` at a time.

    Two such hashes have at least one of `_BANDS` parts in common, since there are more parts than
    differing bits; so only hashes that share a part are compared (Norouzi et al., CVPR 2012,
    "Fast Search in Hamming Space with Multi-Index Hashing"). Time is linear in the images as long
    as few share a part by chance.
    """
    words = np.ascontiguousarray(image_hash).view(np.uint64)
    bits = np.unpackbits(image_hash, axis=1).astype(np.uint32)
    # Every `_BANDS`-th bit: neighbouring bits are alike and would separate less.
    parts = [bits[:, band::_BANDS] for band in range(_BANDS)]
    keys = np.stack([part @ (1 << np.arange(part.shape[1], dtype=np.uint32)) for part in parts])
    for band, key in enumerate(keys):
        for left, right in _same_key(key):
            differing = np.bitwise_count(words[left] ^ words[right]).sum(axis=1, dtype=np.int64)
            near = np.stack([left, right])[:, differing <= MAX_HASH_DISTANCE]
            # A pair that shares several parts was yielded with the first.
            near = near[:, (keys[:band, near[0]] != keys[:band, near[1]]).all(axis=0)]
            for start in range(0, near.shape[1], _BLOCK):
                yield near[:, start : start + _BLOCK]


def _same_key(
    key: npt.NDArray[np.uint32],
) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Yield all pairs of positions with equal keys, each once; at most ``N`` at a time."""
    order = np.argsort(key, kind="stable")
    ranked, first = key[order], np.arange(len(key))
    for apart in range(1, len(key)):
        first = first[first + apart < len(key)]
        first = first[ranked[first] == ranked[first + apart]]
        if not len(first):
            return
        yield order[first], order[first + apart]
