"""A model's probabilities on images, in batches inside one compiled program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_med import augment
from fedjax_med.types import Array, Model, Params

_BATCH = 64


@functools.partial(jax.jit, static_argnames="model")
def probabilities(model: Model, params: Params, image: Array) -> Array:
    """Class probabilities, without augmentation and dropout.

    Args:
        model: compiled once for each.
        params: of the model.
        image: uint8 [*lead, H, W, ch].

    Returns:
        float32 [*lead, K].
    """
    lead, pixels = image.shape[:-3], image.shape[-3:]
    examples = int(np.prod(lead))
    batch = max(1, min(_BATCH, examples))
    steps = -(-examples // batch)
    flat = jnp.pad(image.reshape(-1, *pixels), ((0, steps * batch - examples), *[(0, 0)] * 3))

    def one(images: Array) -> Array:
        return jax.nn.softmax(model.apply(params, augment.normalise(images), None))

    result: Array = jax.lax.map(one, flat.reshape(steps, batch, *pixels))
    classes = result.shape[-1]
    return result.reshape(steps * batch, classes)[:examples].reshape(*lead, classes)


def predict(model: Model, params: Params, image: Array) -> np.ndarray:
    """`probabilities` as a NumPy array."""
    return np.asarray(probabilities(model, params, image))
