"""Softmax regression on the pixels (Cox, 1958, "The Regression Analysis of Binary Sequences").

The loss is convex and the model tiny, so a round's time is mostly overhead of the framework.
"""

import math

import jax.numpy as jnp

from fedjax_med.core.model import Model
from fedjax_med.core.types import Array, Key, Params


def build(num_classes: int) -> Model:
    """Build one dense layer from all values of the image to the logits, initialised with zeros.

    Args:
        num_classes: K, the number of logits.
    """

    def init(key: Key, image_shape: tuple[int, int, int]) -> Params:
        del key  # a convex loss needs no random start
        kernel = jnp.zeros((math.prod(image_shape), num_classes))
        return {"classifier": {"kernel": kernel, "bias": jnp.zeros(num_classes)}}

    def apply(params: Params, images: Array, key: Key | None) -> Array:
        del key
        layer = params["classifier"]
        logits: Array = images.reshape(images.shape[0], -1) @ layer["kernel"] + layer["bias"][None]
        return logits

    return Model(init, apply)
