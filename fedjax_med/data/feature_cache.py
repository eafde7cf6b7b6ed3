"""Features of all images from the frozen part of a model, computed once and cached.

A network spends most of its time in its first layers, where images are large, and the filters that
these learned from a million photographs also suit a few thousand medical images. Frozen layers
return the same features for the same image in every round of every run, so these are computed once,
for up to eight mirrored views of each image: training draws one view at random, and evaluation
averages the predictions. The other random changes of training images (small rotations, crops,
colours) come from copies of each view that were changed before they passed through the frozen
layers; the experiment sets the number of copies.
"""

import dataclasses
import hashlib
import io
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_med.client import augmentation
from fedjax_med.client.augmentation import Augment
from fedjax_med.core.model import Model
from fedjax_med.core.types import Array, Key, Params
from fedjax_med.data.dataset import Images, Split
from fedjax_med.data.feature_rows import Rows
from fedjax_med.data.images.array_record import cannot_write
from fedjax_med.data.memory import memory_bytes
from fedjax_med.errors import UserError, expand
from fedjax_med.files import clear_temporary, open_regular, replacing
from fedjax_med.models.pretrained import exported, weights

_BATCH = 16  # images at a time; the last batch is padded, so that only one program is compiled
UNCHANGED = Augment(copies=0)
EVERY_VIEW = tuple(range(augmentation.VIEWS))
_MADE_BY = 2  # raise it whenever this code computes other features, so that no old file is used
_DIGEST = hashlib.sha256
_BLOCK = 2**20  # bytes read at a time
KIND = np.dtype(np.float16)  # eleven bits of precision: more than the eight of a pixel


class Part(NamedTuple):
    """The frozen part of a model, with its weights."""

    model: Model  # its `apply` returns the input of the trained part
    params: Params
    digest: str  # of the weights and of the preparation of the images


def part(model: Model, pretrained: str, image_shape: tuple[int, int, int]) -> Part:
    """Combine the frozen `model` with pretrained weights.

    Args:
        model: the ``frozen`` field of the model to train.
        pretrained: where the weights come from (`fedjax_med.models.pretrained.weights.read`).
        image_shape: ``(H, W, 3)``.

    Raises:
        UserError: There are no such weights.
    """
    if not pretrained:
        raise UserError(
            "frozen blocks need weights that others trained: give --config.pretrained=imagenet "
            "(or hub, or a file), or a model that is trained as a whole."
        )
    start = weights.start(model, pretrained, exported.FROZEN)
    params = start(jax.eval_shape(lambda: model.init(jax.random.key(0), image_shape)))
    prepared = f"{model.mean} {model.std}"
    prepared += f" {model.colour_constancy}" if model.colour_constancy else ""
    total = hashlib.sha256(prepared.encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        total.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return Part(model, params, total.hexdigest())


def features(
    split: Split,
    frozen: Part,
    cache_dir: str,
    changes: Augment = UNCHANGED,
    views: tuple[int, ...] = EVERY_VIEW,
) -> Split:
    """Replace the images of `split` by their features from `frozen`, computed or from the cache.

    Args:
        split: its images are uint8 ``[N, H, W, 3]``.
        frozen: the model that computes the features.
        cache_dir: where the features are kept, identified by images, weights and changes: those
            of the same images in another order, or with other labels, are the same.
        changes: random changes; its ``copies`` follow the unchanged views, all views of the
            first copy first. Each has its own changes, the same in every run.
        views: the numbers of the V mirrored views (`augmentation.mirrored`).

    Returns:
        The split with float16 features ``[N, V * (1 + copies), h, w, ch]`` as its images; they
        stay on disk until they are indexed.

    Raises:
        UserError: `cache_dir` cannot be written, memory or disk space is too small, or a setting
            of `changes` is out of range.
    """
    different, first, rows = np.unique(split.sha256, return_index=True, return_inverse=True)
    one = (1, *split.image.shape[1:])
    made = jax.eval_shape(lambda: frozen.model.apply(frozen.params, jnp.zeros(one), None))
    wanted = (len(different), len(views) * (1 + changes.copies), *made.shape[1:])
    of = hashlib.sha256(f"{frozen.digest} {one} {_MADE_BY}".encode())
    of.update(f"{jax.__version__} {jax.default_backend()}".encode())  # they decide the last bits
    of.update("".join(different.tolist()).encode())
    if changes.copies:
        of.update(f"{_of_one_image(changes)}".encode())
    if views != EVERY_VIEW:
        of.update(f"views {views}".encode())
    home = expand(cache_dir).absolute() / "features"
    clear_temporary(home)
    file = home / f"{of.hexdigest()[:16]}.npy"
    if (kept := _kept(file, wanted)) is None:
        size = int(np.prod(wanted)) * KIND.itemsize
        _check_memory(size)
        _check_space(home, cache_dir, size)
        print(
            f"Computing the frozen part of the model for {len(different):,} images, once; "
            f"{size / 1e6:,.0f} MB kept in {cache_dir}.",
            file=sys.stderr,
        )
        _write(file, wanted, _computed(split.image, first, frozen, changes, views))
        kept = _kept(file, wanted)
        assert kept is not None
    return split._replace(image=Rows(kept, rows))


def computed(images: Images, frozen: Part, views: tuple[int, ...]) -> npt.NDArray[Any]:
    """Compute the features of `images` in memory, as `features` does, without its cache.

    Args:
        images: uint8 ``[N, H, W, 3]``.
        frozen: the model that computes the features.
        views: the numbers of the V mirrored views.

    Returns:
        float16 ``[N, V, h, w, ch]``.

    Raises:
        UserError: A feature is not finite.
    """
    parts = list(_computed(images, np.arange(len(images)), frozen, UNCHANGED, views))
    for part in parts:
        _finite(part)
    return np.concatenate(parts)


def _kept(file: Path, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """Load the features that an earlier run wrote; None if there are none or they are damaged."""
    try:
        fault = _fault(file, shape)
    except FileNotFoundError:
        return None
    except OSError as error:
        fault = error.strerror or str(error)
    if fault:
        print(f"The kept features in {file} {fault}: computing them anew.", file=sys.stderr)
        return None
    kept: npt.NDArray[Any] = np.load(file, mmap_mode="r") if np.prod(shape) else np.load(file)
    return kept


def _fault(file: Path, shape: tuple[int, ...]) -> str:
    """Describe how a file differs from what `_write` wrote; "" if it does not.

    Raises:
        OSError: It cannot be read.
    """
    header = _header(shape)
    size = len(header) + int(np.prod(shape)) * KIND.itemsize + _DIGEST().digest_size
    with open_regular(file, 2**62) as stream:
        found = os.fstat(stream.fileno()).st_size
        if found != size:
            return f"have {found:,} bytes instead of {size:,}"
        total, left = _DIGEST(), size - _DIGEST().digest_size
        while left and (block := stream.read(min(left, _BLOCK))):
            total.update(block)
            left -= len(block)
        return "" if stream.read() == total.digest() else "differ from those that were written"


def _header(shape: tuple[int, ...]) -> bytes:
    """Return the header of a file of NumPy's with features of this shape."""
    out = io.BytesIO()
    header = {"descr": KIND.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


def _check_memory(size: int) -> None:
    if size > memory_bytes() / 2:  # stacked clients and predictions need memory too
        raise UserError(
            f"what the frozen blocks make of the images takes {size / 1e6:,.0f} MB of memory, and "
            f"this machine has {memory_bytes() / 1e6:,.0f} MB: give a smaller "
            "--config.augment.copies or --config.image_size, or more frozen blocks."
        )


def _check_space(home: Path, cache_dir: str, size: int) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise cannot_write(Path(cache_dir), error) from error
    if free < size:
        raise UserError(
            f"--cache_dir={cache_dir} has {free / 1e6:,.0f} MB free, and what the frozen blocks "
            f"make of the images takes {size / 1e6:,.0f} MB. Free some space or give another "
            "folder."
        )


def _of_one_image(changes: Augment) -> Augment:
    """Drop the mirrors, which the views cover, and the changes made to whole training batches."""
    return dataclasses.replace(
        changes, flip=False, right_angles=False, views=8, mixup=0.0, cutmix=0.0, erase=0.0
    )


def _computed(
    every: Images,
    chosen: npt.NDArray[np.int64],
    frozen: Part,
    changes: Augment,
    views: tuple[int, ...],
) -> Iterator[npt.NDArray[Any]]:
    """Yield the features ``[b, V * (1 + copies), h, w, ch]`` of `_BATCH` images at a time.

    Args:
        every: the images to choose from.
        chosen: the positions of the images in `every`.
        frozen: the model that computes the features.
        changes: as in `features`.
        views: likewise.
    """
    model = frozen.model
    prepare = augmentation.build(
        _of_one_image(changes), model.mean, model.std, model.colour_constancy
    )

    @jax.jit
    def plain(params: Params, images: Array) -> Array:
        normalised = augmentation.normalise(images, model.mean, model.std, model.colour_constancy)
        return model.apply(params, normalised, None).astype(KIND)

    @jax.jit
    def changed(params: Params, images: Array, key: Key) -> Array:
        return model.apply(params, prepare(images, key), None).astype(KIND)

    for start in range(0, len(chosen), _BATCH):
        images = np.asarray(every[chosen[start : start + _BATCH]])
        full = np.zeros((_BATCH, *images.shape[1:]), np.uint8)
        full[: len(images)] = images
        mirrors = [augmentation.mirrored(full, view) for view in views]
        made = [plain(frozen.params, mirror) for mirror in mirrors]
        for number in range(changes.copies * len(views)):
            # The same key in all runs on the same images, since they share the cached features.
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), start), number)
            made.append(changed(frozen.params, mirrors[number % len(views)], key))
        yield np.stack([np.asarray(one) for one in made], 1)[: len(images)]


def _write(file: Path, shape: tuple[int, ...], parts: Iterator[npt.NDArray[Any]]) -> None:
    """Write the features, then a digest of all bytes before it, which NumPy does not read.

    Raises:
        UserError: A feature is not finite, or the file cannot be written.
    """
    # Not through a memory map: a full disk would end the program without a message.
    total = _DIGEST()
    with replacing(file) as temporary, temporary.open("wb") as out:
        for part in itertools.chain([_header(shape)], map(_finite, parts)):
            out.write(part)
            total.update(part)
        out.write(total.digest())


def _finite(part: npt.NDArray[Any]) -> bytes:
    if not np.isfinite(part).all():
        raise UserError(
            "the frozen part of the model makes NaN or infinity of some images (its features are "
            f"numbers up to {np.finfo(KIND).max:,.0f}): are the weights of --config.pretrained "
            "whole and those of this model?"
        )
    return part.tobytes()
