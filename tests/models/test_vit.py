"""DINOv2's transformers against a forward pass in NumPy, with both kinds of names."""

import jax
import numpy as np
import pytest
import toy
import vision_transformer
from safetensors.numpy import save_file

from fedjax_med.core.model import IMAGENET_MEAN, IMAGENET_STD
from fedjax_med.errors import UserError
from fedjax_med.models import _backbones, _vit, frozen_layers
from fedjax_med.models.pretrained import weights

KEY = jax.random.key(0)
TINY = _vit.Size("tiny", width=12, blocks=4, heads=3, taken=(2, 4), patch=4, grid=5)


@pytest.fixture(scope="module")
def tensors():
    return vision_transformer.random_tensors(TINY)


def shapes(of, side=20):
    model, _ = _vit.layers(of)
    return jax.eval_shape(lambda: model.init(KEY, (side, side, 3)))


# The size of the table; a larger and a smaller one; what no patch divides, and not square.
@pytest.mark.parametrize("size", [(20, 20), (32, 32), (12, 12), (19, 26)])
def test_layers_are_a_numpy_forward_pass(tensors, size):
    model, told = _vit.layers(TINY)
    images = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
    found = vision_transformer.layers(tensors, TINY, images.astype(np.float64))
    expected = np.concatenate([part for layer in (2, 4) for part in found[layer - 1]], axis=1)
    params = model.pretrained(tensors, shapes(TINY))
    result = jax.jit(model.apply)(params, images, None)
    assert result.shape == (2, told) == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (3, 8), (1, 1), (60, 37)])
def test_positions_are_interpolated_as_torch_does_it(rows, columns):
    table = np.random.default_rng(2).normal(size=(37, 37, 3))
    expected = vision_transformer.resized(table, rows, columns).reshape(rows * columns, 3)
    result = _vit.resized(table.reshape(-1, 3).astype(np.float32), rows, columns)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_positions_stay_where_the_size_is_theirs():
    table = np.random.default_rng(2).normal(size=(25, 3)).astype(np.float32)
    np.testing.assert_array_equal(_vit.resized(table, 5, 5), table)


def test_both_kinds_of_names_give_the_same_parameters(tensors):
    model, _ = _vit.layers(TINY)
    first = model.pretrained(tensors, shapes(TINY))
    second = model.pretrained(vision_transformer.timm_names(tensors), shapes(TINY))
    toy.assert_same_bits(first, second)
    expected = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), shapes(TINY))
    assert jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), first) == expected


@pytest.mark.parametrize(
    ("of", "width", "heads", "numbers"),
    [(_vit.SMALL, 384, 6, 22_056_576), (_vit.BASE, 768, 12, 86_580_480)],
)
def test_sizes_have_the_published_numbers_of_parameters(of, width, heads, numbers):
    """`numbers`: of the authors' models, with the final norm and the token of masked patches."""
    assert (of.width, of.heads, of.blocks, of.patch, of.taken) == (
        width,
        heads,
        12,
        14,
        (6, 9, 11, 12),
    )
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes(of, 28)))
    assert found + 2 * width + width == numbers
    assert _vit.layers(of)[1] == 12 * width


@pytest.mark.parametrize("names", ["hugging face", "timm"])
@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("encoder.layer.3.mlp.fc2.bias", r"no tensor '.*\.3\.mlp\.fc2\.bias'"),
        ("embeddings.position_embeddings", "no tensor '.*pos"),
        ("encoder.layer.0.norm1.weight", r"no tensor '.*\.0\.norm1\.weight'"),
    ],
)
def test_missing_tensors_are_named(tensors, names, gone, message):
    left = {name: value for name, value in tensors.items() if name != gone}
    if names == "timm":
        left = vision_transformer.timm_names(left)
    with pytest.raises(UserError, match=message) as caught:
        _vit.pretrained(left, shapes(TINY))
    assert "\n" not in str(caught.value)


def test_weights_of_another_size_are_refused(tensors):
    other = shapes(TINY._replace(grid=6))
    with pytest.raises(UserError, match=r"\(1, 37, 12\), got \(1, 26, 12\)"):
        _vit.pretrained(tensors, other)
    with pytest.raises(UserError, match=r"patch_embed.proj.weight' to have shape \(12, 3, 5, 5\)"):
        _vit.pretrained(vision_transformer.timm_names(tensors), shapes(TINY._replace(patch=5)))


def test_image_smaller_than_a_patch_is_named():
    model, _ = _vit.layers(TINY)
    with pytest.raises(UserError, match="at least 4 pixels, got 3"):
        model.init(KEY, (3, 8, 3))


def test_beside_another_network_each_sees_its_own_normalisation(tensors, tmp_path, monkeypatch):
    """Pixels are normalised for the first network, and converted for the second, DINOv2."""
    file = tmp_path / "tiny.safetensors"
    save_file(tensors, file)

    def other():
        model, size = _vit.layers(TINY)
        return model._replace(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 1.0)), size

    backbones = {"other": other, "tiny": lambda: _vit.layers(TINY)}
    monkeypatch.setattr(_backbones, "BACKBONES", backbones)
    monkeypatch.setattr(
        weights, "_NETWORKS", dict.fromkeys(backbones, weights._NETWORKS["dinov2_small"])
    )
    model = frozen_layers.build(3, backbones="other+tiny").frozen
    assert (model.mean, model.std) == ((0.5, 0.4, 0.3), (0.5, 0.25, 1.0))
    first = jax.eval_shape(lambda: model.init(KEY, (20, 20, 3)))
    params = weights.start(model, str(file))(first)
    pixels = np.random.default_rng(3).uniform(size=(2, 20, 20, 3))
    result = jax.jit(model.apply)(params, (pixels - np.array(model.mean)) / model.std, None)
    expected = []
    for mean, std in ((model.mean, model.std), (IMAGENET_MEAN, IMAGENET_STD)):
        found = vision_transformer.layers(tensors, TINY, (pixels - np.array(mean)) / std)
        expected += [part for layer in (2, 4) for part in found[layer - 1]]
    np.testing.assert_allclose(
        result[:, 0, 0], np.concatenate(expected, axis=1), rtol=1e-3, atol=1e-3
    )


def test_weights_of_dinov2_come_from_the_hub_or_a_file():
    with pytest.raises(
        UserError, match=r"no package holds .* dinov2_small; expected hub, hub:OWNER"
    ):
        weights.start(frozen_layers.build(9, backbones="dinov2_small"), "imagenet")
    for size in ("small", "base"):
        assert weights._NETWORKS[f"dinov2_{size}"].repository == f"facebook/dinov2-{size}"
