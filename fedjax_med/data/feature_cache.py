"""What the frozen part of a model makes of every image: computed once, and kept.

Most of a network's time goes into its first layers, where images are large, and what they learned
from a million photographs is what a few thousand medical images need as well. Left as they are,
they give the same for the same image in every round of every run; so it is computed once, for the
eight mirrored views of each image, of which training draws one at random and evaluation takes the
mean prediction. The other random changes of training images (small turns, crops, colours) come from
copies of each view that were changed before they went through, as many as the experiment wants.
"""

import dataclasses
import hashlib
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
from fedjax_med.core.types import Array, Key, Model, Params, Split
from fedjax_med.data.images.array_record import cannot_write, memory_bytes
from fedjax_med.errors import UserError
from fedjax_med.files import replacing
from fedjax_med.models.pretrained import weights

_BATCH = 16  # images at a time; the last ones are filled up, so that one program is compiled
UNCHANGED = Augment(copies=0)
_MADE_BY = 1  # goes up with every change of what this code computes, so that no old file is taken
_KIND = np.dtype(np.float16)  # eleven bits of precision: more than the eight of a pixel


class Part(NamedTuple):
    """The frozen part of a model, with its weights."""

    model: Model  # its `apply` gives what the trained part takes
    params: Params
    digest: str  # of the weights, and of how images are prepared for them


def part(model: Model, pretrained: str, image_shape: tuple[int, int, int]) -> Part:
    """The frozen part that `model` is, with weights that others trained.

    Args:
        model: the field ``frozen`` of the model that is trained.
        pretrained: where the weights come from (`fedjax_med.models.pretrained.weights.read`).
        image_shape: ``(H, W, 3)``.

    Raises:
        UserError: There are no such weights.
    """
    if not pretrained:
        raise UserError(
            "frozen blocks need weights that others trained: give --config.pretrained=imagenet "
            "(or hub, or a file), or --config.model.options.frozen_blocks=0."
        )
    start = weights.start(model, pretrained)
    params = start(jax.eval_shape(lambda: model.init(jax.random.key(0), image_shape)))
    prepared = f"{model.mean} {model.std}"
    prepared += f" {model.colour_constancy}" if model.colour_constancy else ""
    total = hashlib.sha256(prepared.encode())
    for path, leaf in jax.tree.leaves_with_path(params):
        total.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return Part(model, params, total.hexdigest())


def features(split: Split, frozen: Part, cache_dir: str, changes: Augment = UNCHANGED) -> Split:
    """`split` with what `frozen` makes of each image in the place of the image.

    Args:
        split: its images are uint8 ``[N, H, W, 3]``.
        frozen: what they go through.
        cache_dir: where the features are kept, by the images, the weights and the changes.
        changes: its ``copies`` come after the views themselves, all eight views of the first copy
            first; each has its own random changes, the same in every run.

    Returns:
        The split with float16 ``[N, 8 * (1 + copies), h, w, ch]``, which stay on disk until they
        are indexed.

    Raises:
        UserError: `cache_dir` cannot be written, or a setting of `changes` is out of its range.
    """
    one = (1, *split.image.shape[1:])
    made = jax.eval_shape(lambda: frozen.model.apply(frozen.params, jnp.zeros(one), None))
    wanted = (split.num_examples, augmentation.VIEWS * (1 + changes.copies), *made.shape[1:])
    of = hashlib.sha256(f"{frozen.digest} {split.image.shape} {_MADE_BY}".encode())
    of.update(f"{jax.__version__} {jax.default_backend()}".encode())  # whose last bits they have
    of.update("".join(split.sha256.tolist()).encode())
    if changes.copies:
        of.update(f"{_of_one_image(changes)}".encode())
    home = Path(cache_dir).expanduser().absolute() / "features"
    file = home / f"{of.hexdigest()[:16]}.npy"
    if (kept := _kept(file, wanted)) is None:
        size = int(np.prod(wanted)) * _KIND.itemsize
        _check_memory(size)
        _check_space(home, cache_dir, size)
        print(
            f"Computing the frozen part of the model for {split.num_examples:,} images, once; "
            f"{size / 1e6:,.0f} MB kept in {cache_dir}.",
            file=sys.stderr,
        )
        _write(file, wanted, _computed(split, frozen, changes))
        kept = _kept(file, wanted)
        assert kept is not None
    return split._replace(image=kept)


def _kept(file: Path, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
    """What an earlier run wrote; None if there is nothing, or it is damaged."""
    try:
        found = np.load(file, mmap_mode="r") if np.prod(shape) else np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == _KIND else None


def _check_memory(size: int) -> None:
    if size > memory_bytes() / 2:  # clients are stacked in it, and predictions made beside them
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
    """Without the mirrors, which the views are, and what training does to a batch as a whole."""
    return dataclasses.replace(
        changes, flip=False, right_angles=False, mixup=0.0, cutmix=0.0, erase=0.0
    )


def _computed(split: Split, frozen: Part, changes: Augment) -> Iterator[npt.NDArray[Any]]:
    """The features ``[b, 8 * (1 + copies), h, w, ch]`` of `_BATCH` images at a time."""
    model = frozen.model
    prepare = augmentation.build(
        _of_one_image(changes), model.mean, model.std, model.colour_constancy
    )

    @jax.jit
    def plain(params: Params, images: Array) -> Array:
        normalised = augmentation.normalise(images, model.mean, model.std, model.colour_constancy)
        return model.apply(params, normalised, None).astype(_KIND)

    @jax.jit
    def changed(params: Params, images: Array, key: Key) -> Array:
        return model.apply(params, prepare(images, key), None).astype(_KIND)

    for start in range(0, split.num_examples, _BATCH):
        images = np.asarray(split.image[start : start + _BATCH])
        full = np.zeros((_BATCH, *images.shape[1:]), np.uint8)
        full[: len(images)] = images
        views = [augmentation.mirrored(full, view) for view in range(augmentation.VIEWS)]
        made = [plain(frozen.params, view) for view in views]
        for number in range(changes.copies * augmentation.VIEWS):
            # The same for all runs on the same images, which share what is kept.
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), start), number)
            made.append(changed(frozen.params, views[number % augmentation.VIEWS], key))
        yield np.stack([np.asarray(one) for one in made], 1)[: len(images)]


def _write(file: Path, shape: tuple[int, ...], parts: Iterator[npt.NDArray[Any]]) -> None:
    # Not through a memory map: a disk that fills up would end the program without a word.
    header = {"descr": _KIND.str, "fortran_order": False, "shape": shape}
    with replacing(file) as temporary, temporary.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for part in parts:
            out.write(np.ascontiguousarray(part).tobytes())
