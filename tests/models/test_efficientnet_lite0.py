import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from fedjax_med.errors import UserError
from fedjax_med.models import efficientnet_lite0

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)


def shapes(num_classes):
    model = efficientnet_lite0.build(num_classes)
    return jax.eval_shape(lambda key: model.init(key, SHAPE), KEY)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_with_normalisation_unfolded_it_has_the_published_4_652_008_parameters():
    params = shapes(1000)
    # Batch normalisation has a scale and an offset for each channel; folded, the bias is left.
    scales = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(params)
        if path[-1].key == "bias" and path[0].key != "classifier"
    ]
    assert len(scales) == 1 + 2 + 15 * 3 + 1
    assert size(params) + size(scales) == 4_652_008


def test_only_the_classifier_depends_on_the_classes():
    assert size(shapes(1000)) - size(shapes(9)) == 991 * 1281
    assert size(shapes(9)) == 3_350_000 + 9 * 1281


def test_parameters_are_named_by_their_place():
    params = shapes(9)
    blocks = {f"block_{number}" for number in range(16)}
    assert params.keys() == {"stem", "head", "classifier"} | blocks
    assert params["block_0"].keys() == {"depthwise", "project"}
    kernels = {name: leaf["kernel"].shape for name, leaf in params["block_11"].items()}
    assert kernels == {
        "expand": (1, 1, 112, 672),
        "depthwise": (5, 5, 1, 672),
        "project": (1, 1, 672, 192),
    }


def by_definition(block, images, stride, padding, skip):
    """A block in XLA's own convolutions, with the padding said in numbers."""

    def convolve(layer, images, stride=1, padding=0, groups=1):
        out = lax.conv_general_dilated(
            images,
            layer.kernel[...],
            (stride, stride),
            [padding or (0, 0)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return out + layer.bias[...].reshape(1, 1, 1, -1)

    inner = jnp.clip(convolve(block.expand, images), 0, 6)
    inner = jnp.clip(convolve(block.depthwise, inner, stride, padding, inner.shape[-1]), 0, 6)
    return convolve(block.project, inner) + (images if skip else 0)


@pytest.mark.parametrize(
    ("side", "stride", "features", "padding", "skip"),
    [
        (3, 1, 4, (1, 1), True),
        (3, 1, 5, (1, 1), False),
        (3, 2, 4, (0, 1), False),  # TensorFlow's "SAME": what is odd comes after
        (5, 2, 4, (1, 2), False),
    ],
)
def test_block_is_its_definition(side, stride, features, padding, skip):
    block = efficientnet_lite0.Block(4, features, 6, side, stride, nnx.Rngs(0))
    for layer, seed in ((block.expand, 1), (block.depthwise, 2), (block.project, 3)):
        layer.bias[...] = jax.random.normal(jax.random.key(seed), layer.bias.shape)
    images = 3 * jax.random.normal(KEY, (2, 8, 8, 4))
    expected = by_definition(block, images, stride, padding, skip)
    assert expected.shape == (2, 8 // stride, 8 // stride, features)
    np.testing.assert_allclose(block(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_first_values_neither_vanish_nor_grow():
    model = efficientnet_lite0.build(9)
    params = jax.jit(lambda key: model.init(key, SHAPE))(KEY)
    images = jax.random.normal(KEY, (4, *SHAPE))

    def loss(params):
        logits = model.apply(params, images, None)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, 0]), logits

    gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert 0.01 < jnp.std(logits) < 1
    norms = [float(jnp.linalg.norm(layer["kernel"])) for layer in layers(gradient)]
    assert len(norms) == 1 + 2 + 15 * 3 + 2
    assert min(norms) > 1e-4
    assert max(norms) < 10


def layers(tree):
    """The dictionaries with a kernel."""
    if "kernel" in tree:
        return [tree]
    return [layer for branch in tree.values() for layer in layers(branch)]


def test_image_that_is_too_small_is_named():
    with pytest.raises(UserError, match="at least 32 pixels, got 31"):
        efficientnet_lite0.build(9).init(KEY, (64, 31, 3))


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_out_of_its_range_is_named(dropout):
    with pytest.raises(UserError, match=rf"dropout in \[0, 1\), got {dropout}"):
        efficientnet_lite0.build(9, dropout=dropout)
