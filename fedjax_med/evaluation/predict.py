"""Predicts class probabilities of images, in batches inside one compiled program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from fedjax_med.client import augmentation
from fedjax_med.core.model import Model
from fedjax_med.core.types import Array, Params
from fedjax_med.data.client_data import ClientData
from fedjax_med.data.dataset import Images, Split
from fedjax_med.evaluation import per_client

_BATCH = 64
_CHUNK = 2**25  # bytes of images read at a time


def _view(model: Model, images: Array, view: int) -> Array:
    """Return one mirrored view of the images, or its features if part of the model is frozen.

    Args:
        model: the model that consumes the view.
        images: uint8 [B, H, W, ch], or features float16 [B, V, h, w, ch].
        view: as in `fedjax_med.client.augmentation.mirrored`; of features their place.
    """
    if model.frozen is not None:
        return images[:, view].astype(jnp.float32)
    normalised = augmentation.normalise(images, model.mean, model.std, model.colour_constancy)
    return jnp.asarray(augmentation.mirrored(normalised, view))


@functools.partial(jax.jit, static_argnames=("model", "views"))
def probabilities(model: Model, params: Params, image: Array, views: int = 1) -> Array:
    """Compute class probabilities, without augmentation and dropout.

    Args:
        model: static, compiled once for each model.
        params: of the model.
        image: uint8 [*lead, H, W, ch]; features [*lead, V, h, w, ch] if a part is frozen.
        views: number of mirrored images, up to 8, over which the probabilities are averaged.

    Returns:
        float32 [*lead, K].
    """
    dims = 3 if model.frozen is None else 4
    lead, pixels = image.shape[:-dims], image.shape[-dims:]
    examples = int(np.prod(lead))
    batch = max(1, min(_BATCH, examples))
    steps = -(-examples // batch)
    flat = jnp.pad(image.reshape(-1, *pixels), ((0, steps * batch - examples), *[(0, 0)] * dims))

    def one(images: Array) -> Array:
        each = [
            jax.nn.softmax(model.apply(params, _view(model, images, view), None))
            for view in range(views)
        ]
        return sum(each[1:], each[0]) / views if views > 1 else each[0]

    result: Array = jax.lax.map(one, flat.reshape(steps, batch, *pixels))
    classes = result.shape[-1]
    return result.reshape(steps * batch, classes)[:examples].reshape(*lead, classes)


def predict(model: Model, params: Params, image: Images, views: int = 1) -> np.ndarray:
    """Return `probabilities` as a NumPy array; images beyond `_CHUNK` bytes go in equal chunks.

    Args:
        model: static, compiled once for each model.
        params: of the model.
        image: uint8 [N, H, W, ch], in memory or on disk; or features [N, V, h, w, ch].
        views: as in `probabilities`.

    Returns:
        float32 [N, K].

    Raises:
        UserError: The images on disk cannot be read.
    """
    if model.frozen is not None:
        image = image[:, :views]
    count, size = len(image), int(np.prod(image.shape[1:])) * image.dtype.itemsize
    chunk = _BATCH * max(1, _CHUNK // (_BATCH * size))
    if count <= chunk:
        return np.asarray(probabilities(model, params, jnp.asarray(np.asarray(image)), views))
    parts = []
    for start in range(0, count, chunk):
        part = np.asarray(image[start : start + chunk])
        full = np.zeros((chunk, *part.shape[1:]), part.dtype)
        full[: len(part)] = part
        parts.append(np.asarray(probabilities(model, params, full, views))[: len(part)])
    return np.concatenate(parts)


class Validation(NamedTuple):
    """The clients' validation examples, concatenated without padding."""

    image: Images  # [V, H, W, ch]
    label: npt.NDArray[np.int32]  # [V]
    sizes: npt.NDArray[np.int32]  # [C], examples of each client; V in all


def pool(clients: ClientData) -> Validation:
    """Concatenate the examples that the clients hold."""
    flat = np.concatenate([np.empty(0, np.int64), *clients.indices])
    return Validation(clients.split.image[flat], clients.split.label[flat], clients.sizes)


# Parameters of the global model, or a function from a client's index to its own parameters.
Models = Params | Callable[[int], Params]


def predict_validation(
    model: Model, models: Models, validation: Validation, views: int = 1
) -> np.ndarray:
    """Run `predict` on the clients' validation examples: float32 [V, K]; [0, 0] without any.

    Args:
        model: compiled once.
        models: of the clients; a client's own model predicts its own examples.
        validation: examples of all clients.
        views: as in `probabilities`.
    """
    if not len(validation.label):
        return np.empty((0, 0), np.float32)
    if not callable(models):
        return predict(model, models, validation.image, views)
    parts, capacity, ends = [], int(validation.sizes.max()), np.cumsum(validation.sizes)
    for client in np.flatnonzero(validation.sizes):
        size = int(validation.sizes[client])
        image = np.asarray(validation.image[int(ends[client]) - size : int(ends[client])])
        filled = np.zeros((capacity, *image.shape[1:]), image.dtype)  # equal shapes: compiled once
        filled[:size] = image
        parts.append(predict(model, models(int(client)), filled, views)[:size])
    return np.concatenate(parts)


def predict_test(
    model: Model, models: Models, split: Split, clients: int, views: int
) -> np.ndarray:
    """Run `predict` on all images of a split with the global model or each client's own.

    Args:
        model: compiled once.
        models: of the clients.
        split: the images.
        clients: C, the number of clients.
        views: as in `probabilities`.

    Returns:
        float32 [N, K] of the global model, or [C, N, K] of each client's own.
    """
    if not callable(models):
        return predict(model, models, split.image, views)
    return np.stack([predict(model, models(c), split.image, views) for c in range(clients)])


def validate(model: Model, models: Models, validation: Validation) -> dict[str, Any]:
    """Compute the `per_client.validation_metrics` of the models; {} without examples.

    Raises:
        UserError: A client's probabilities are not finite, or the images cannot be read.
    """
    if not len(validation.label):
        return {}
    predicted = predict_validation(model, models, validation)
    return per_client.validation_metrics(predicted, validation.label, validation.sizes)
