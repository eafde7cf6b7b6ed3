"""Finds duplicate images: copies by their bytes, near-duplicates by hash and pixels."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from fedjax_med.data.audit.near_pixels import links
from fedjax_med.data.dataset import Images, Split

# Of 256 bits. On the nine-class ISIC set the three pairs that show one photograph in different
# colours differ in at most 5 bits; the other 2.5 million pairs all differ in at least 21.
MAX_HASH_DISTANCE = 10

_BANDS = MAX_HASH_DISTANCE + 1  # parts that a hash is cut into
_BLOCK = 2**16  # pairs yielded at a time

Int32 = npt.NDArray[np.int32]
Index = npt.NDArray[np.intp]


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


def joined(*numberings: Int32) -> Int32:
    """Number the images so that those that share a number in any of `numberings` share one.

    Args:
        numberings: each int32 ``[N]``.
    """
    count = len(numberings[0])
    left, right = [], []
    for numbering in numberings:
        _, first, inverse = np.unique(numbering, return_index=True, return_inverse=True)
        left.append(np.arange(count))
        right.append(first[inverse])
    return _numbered(_components(count, np.concatenate(left), np.concatenate(right)))


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


def _components(count: int, left: Index, right: Index) -> npt.NDArray[np.int32]:
    """Label the connected components of an undirected graph: ``[count]``."""
    graph = sparse.coo_array((np.ones(len(left), bool), (left, right)), shape=(count, count))
    labels: npt.NDArray[np.int32]
    labels = sparse.csgraph.connected_components(graph, directed=False)[1]
    return labels


def _near_pairs(
    image_hash: npt.NDArray[np.uint8], place: Index, images: Sequence[Images]
) -> tuple[Index, Index]:
    """Find pairs within both distances that connect the same images as all such pairs would.

    Args:
        image_hash: uint8 ``[n, 32]``.
        place: ``[n]``, the positions of the images.
        images: uint8 ``[N, H, W, ch]``, in consecutive parts.

    Returns:
        Two arrays of positions in `image_hash`.
    """
    hashes, inverse = np.unique(image_hash, axis=0, return_inverse=True)
    near = np.concatenate([np.zeros((2, 0), np.intp), *_near_hashes(hashes)], axis=1)
    group = _numbered(_components(len(hashes), *near)[inverse.reshape(-1)])
    words = np.ascontiguousarray(image_hash).view(np.uint64)
    left, right = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    for same in members(group):

        def near_hash(one: int, others: Index, same: Int32 = same) -> npt.NDArray[np.bool_]:
            differing = np.bitwise_count(words[same[others]] ^ words[same[one]])
            return np.asarray(differing.sum(axis=1, dtype=np.int64) <= MAX_HASH_DISTANCE)

        for one, others in links(images, place[same], near_hash):
            left.append(np.full(len(others), same[one], np.intp))
            right.append(same[others].astype(np.intp))
    return np.concatenate(left), np.concatenate(right)


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
