"""The workloads' networks in plain JAX, with XLA's own convolutions, for FedJAX."""

import jax
import jax.numpy as jnp
from jax import lax


def convolve(images, layer, stride=1, groups=1):
    """A convolution with TensorFlow's "SAME" padding and, where it has one, a bias."""
    images = lax.conv_general_dilated(
        images,
        layer["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return images + layer["bias"] if "bias" in layer else images


def dense(features, layer):
    return features @ layer["kernel"] + layer["bias"]


def blocks(params):
    """The blocks in their order."""
    names = [name for name in params if name.startswith("block_")]
    return [params[name] for name in sorted(names, key=lambda name: int(name[6:]))]


def cnn(params, images, groups=8):
    """`fedjax_med.models.cnn`."""
    for block in blocks(params):
        images = convolve(images, block["convolution"])
        batch, height, width, features = images.shape
        images = images.reshape(batch, height // 2, 2, width // 2, 2, features).max((2, 4))
        grouped = images.reshape(batch, -1, groups, features // groups)
        mean = grouped.mean((1, 3), keepdims=True)
        deviation = grouped - mean
        variance = jnp.square(deviation).mean((1, 3), keepdims=True)
        grouped = deviation * lax.rsqrt(variance + 1e-6)
        norm = block["normalisation"]
        images = jax.nn.relu(grouped.reshape(images.shape) * norm["scale"] + norm["bias"])
    return dense(images.mean((1, 2)), params["classifier"])


def efficientnet_lite0(params, images):
    """`fedjax_med.models.efficientnet_lite0`."""
    images = jax.nn.relu6(convolve(images, params["stem"], 2))
    for number, block in enumerate(blocks(params)):
        stride = 2 if number in (1, 3, 5, 11) else 1
        inner = jax.nn.relu6(convolve(images, block["expand"])) if "expand" in block else images
        inner = jax.nn.relu6(convolve(inner, block["depthwise"], stride, inner.shape[-1]))
        result = convolve(inner, block["project"])
        images = images + result if images.shape == result.shape else result
    images = jax.nn.relu6(convolve(images, params["head"]))
    return dense(images.mean((1, 2)), params["classifier"])


def linear(params, images):
    """`fedjax_med.models.linear`."""
    return dense(images.reshape(images.shape[0], -1), params["classifier"])


LOGITS = {"cnn": cnn, "efficientnet_lite0": efficientnet_lite0, "linear": linear}
