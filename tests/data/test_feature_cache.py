"""The frozen part of a model: the two parts are the whole, and its features are kept."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy

from fedjax_med.cli import main as cli
from fedjax_med.client import augmentation
from fedjax_med.client import views as drawing
from fedjax_med.data import feature_cache
from fedjax_med.data.dataset import Split
from fedjax_med.errors import UserError
from fedjax_med.evaluation import predict
from fedjax_med.experiment.config import Augment
from fedjax_med.models import efficientnet_lite0
from fedjax_med.models.pretrained import weights

SIDE = 32
SHAPE = (SIDE, SIDE, 3)


@pytest.fixture(scope="module")
def tensors():
    """Random weights under the names of the package that has ImageNet's."""
    rng, found = np.random.default_rng(0), {}
    shapes = jax.eval_shape(lambda: efficientnet_lite0.build(9).init(jax.random.key(0), SHAPE))
    names = efficientnet_lite0._names_of_lukemelas()
    for place, (conv, norm) in names.items():
        branch = shapes
        for name in place.split("/"):
            branch = branch.get(name, {})
        if not branch:  # the first block does not expand
            continue
        *sides, inputs, outputs = branch["kernel"].shape
        scale = np.sqrt(2 / (np.prod(sides) * inputs))
        found[f"{conv}.weight"] = scale * rng.normal(size=(outputs, inputs, *sides))
        found[f"{norm}.weight"] = rng.uniform(0.5, 1.0, outputs)
        found[f"{norm}.bias"] = rng.normal(0, 0.1, outputs)
        found[f"{norm}.running_mean"] = rng.normal(0, 0.1, outputs)
        found[f"{norm}.running_var"] = rng.uniform(0.5, 1.0, outputs)
    found["_fc.weight"], found["_fc.bias"] = rng.normal(size=(9, 1280)), rng.normal(size=9)
    return {name: value.astype(np.float32) for name, value in found.items()}


@pytest.fixture
def trained(tensors, monkeypatch):
    """`pretrained=imagenet` without the package."""
    monkeypatch.setattr(weights, "read", lambda source: tensors)


def params_of(model, tensors, shape=SHAPE):
    return model.pretrained(tensors, jax.eval_shape(lambda: model.init(jax.random.key(0), shape)))


def split_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return Split(
        rng.integers(0, 255, (count, *SHAPE)).astype(np.uint8),
        rng.integers(0, 9, count).astype(np.int32),
        np.array([f"a/{number}.jpg" for number in range(count)]),
        np.array([f"{seed}{number:08d}" for number in range(count)]),
        np.zeros((count, 32), np.uint8),
        np.full(count, -1, np.int32),
    )


NUMBERS = np.linspace(-3, 3, 2 * 8 * 3).reshape(2, 8, 1, 1, 3).astype(np.float16)
CHANGES = {
    "a flipped bit": lambda data: data[:-50] + bytes([data[-50] ^ 1]) + data[-49:],
    "NaN": lambda data: data[: -32 - NUMBERS.nbytes] + b"\xff" * NUMBERS.nbytes + data[-32:],
    "another digest": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "another header": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "of a version without digests": lambda data: data[:-32],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("change", CHANGES)
def test_kept_features_that_are_not_those_written_are_told_and_not_taken(tmp_path, capsys, change):
    file = tmp_path / "features.npy"
    feature_cache._write(file, NUMBERS.shape, iter([NUMBERS[:1], NUMBERS[1:]]))
    np.testing.assert_array_equal(feature_cache._kept(file, NUMBERS.shape), NUMBERS)
    assert capsys.readouterr().err == ""
    file.write_bytes(CHANGES[change](file.read_bytes()))
    assert feature_cache._kept(file, NUMBERS.shape) is None
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "computing them anew" in err


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_not_kept(tmp_path, number):
    part = NUMBERS.copy()
    part[1, 2, 0, 0, 1] = number
    with pytest.raises(UserError, match="makes NaN or infinity of some images"):
        feature_cache._write(tmp_path / "features.npy", part.shape, iter([part]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("blocks", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (8, 16))])
def test_the_two_parts_are_the_whole(tensors, blocks):
    whole, part = efficientnet_lite0.build(9), efficientnet_lite0.build(9, frozen_blocks=blocks)
    images = jax.random.normal(jax.random.key(1), (2, *SHAPE))
    params = params_of(whole, tensors)
    below, above = params_of(part.frozen, tensors), params_of(part, tensors, (1, 1, 3))
    assert below.keys() | above.keys() == params.keys()
    assert not below.keys() & above.keys()
    features = part.frozen.apply(below, images, None)
    toy.assert_close(
        jax.jit(part.apply)(above, features, None),
        jax.jit(whole.apply)(params, images, None),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_wrong_number_of_frozen_blocks_is_refused():
    for blocks in (-1, 17):
        with pytest.raises(UserError, match=f"0 to 16 frozen_blocks, got {blocks}"):
            efficientnet_lite0.build(9, frozen_blocks=blocks)


def test_features_are_those_of_every_mirrored_view(trained, tmp_path):
    model, split = efficientnet_lite0.build(9, frozen_blocks=2), split_of(19)
    part = feature_cache.part(model.frozen, "imagenet", SHAPE)
    features = feature_cache.features(split, part, str(tmp_path))
    assert features.image.shape == (19, 8, 16 // 2, 16 // 2, 24)
    assert features.image.dtype == np.float16
    for view in range(8):
        images = augmentation.mirrored(split.image, view)
        normalised = augmentation.normalise(images, model.mean, model.std)
        expected = model.frozen.apply(part.params, normalised, None)
        toy.assert_close(np.float32(features.image[:, view]), expected, rtol=2e-3, atol=2e-3)
    for name in Split._fields[1:]:
        np.testing.assert_array_equal(getattr(features, name), getattr(split, name))


def test_images_in_another_order_or_under_other_labels_are_not_computed_again(trained, tmp_path):
    model, split = efficientnet_lite0.build(9, frozen_blocks=1), split_of(20)
    part = feature_cache.part(model.frozen, "imagenet", SHAPE)
    copies = Augment(copies=1, right_angles=False)
    first = feature_cache.features(split, part, str(tmp_path), copies, views=(0, 1)).image
    order = np.random.default_rng(1).permutation(20)
    twice = np.concatenate([order, order[:3]])  # of some images there are copies
    other = split.take(twice)._replace(label=np.zeros(23, np.int32))
    found = feature_cache.features(other, part, str(tmp_path), copies, views=(0, 1)).image
    assert len(list((tmp_path / "features").iterdir())) == 1
    np.testing.assert_array_equal(np.asarray(found), np.asarray(first)[twice])


def test_rows_are_read_like_an_array():
    kept = np.arange(24.0).reshape(4, 2, 1, 1, 3)
    rows = np.array([3, 0, 0, 2, 1])
    whole, lazy = kept[rows], feature_cache.Rows(kept, rows)
    assert (len(lazy), lazy.shape, lazy.dtype) == (5, whole.shape, whole.dtype)
    for index in (2, slice(1, 4), np.array([4, 0]), whole[:, 0, 0, 0, 0] > 6, (slice(2), 1)):
        np.testing.assert_array_equal(np.asarray(lazy[index]), whole[index])
    np.testing.assert_array_equal(np.asarray(lazy[1:, :1][2]), whole[1:, :1][2])
    with pytest.raises(IndexError):
        lazy[np.array([5])]


def test_only_the_views_that_are_used_are_computed(trained, tmp_path):
    model, split = efficientnet_lite0.build(9, frozen_blocks=1), split_of(3)
    part = feature_cache.part(model.frozen, "imagenet", SHAPE)
    every, two, again = (
        np.array(feature_cache.features(split, part, str(tmp_path), views=chosen).image)
        for chosen in (drawing.ORDER, (0, 7), drawing.ORDER)
    )
    assert two.shape[1] == 2
    np.testing.assert_array_equal(two, every[:, :2])
    np.testing.assert_array_equal(again, every)
    copies = Augment(copies=2, right_angles=False)
    found = feature_cache.features(split, part, str(tmp_path), copies, views=(0, 7)).image
    assert found.shape[1] == 6
    np.testing.assert_array_equal(found[:, :2], two)


@pytest.mark.parametrize(
    ("changes", "tta_views", "needed"),
    [
        ({"flip": False, "right_angles": False}, 1, (0,)),
        ({"flip": False, "right_angles": False}, 4, (0, 7, 3, 4)),
        ({"right_angles": False}, 1, (0, 1)),
        ({"right_angles": False}, 2, (0, 7, 1)),
        ({"flip": False}, 1, (0, 3, 6, 5)),
        ({}, 2, (0, 7, 3, 4, 1, 6, 2, 5)),
        ({"views": 2}, 1, (0, 7)),
        ({"views": 2}, 4, (0, 7, 3, 4)),
        ({"views": 4, "flip": False}, 2, (0, 7, 3, 6, 5)),
    ],
)
def test_views_that_training_or_evaluation_uses_are_computed(changes, tta_views, needed):
    assert drawing.needed(Augment(**changes), tta_views) == needed


def test_every_view_counts_once_and_those_beside_each_other_differ_most():
    assert sorted(drawing.ORDER) == list(range(8))
    image = np.random.default_rng(0).normal(size=(1, 5, 5, 1))
    made = [augmentation.mirrored(image, view) for view in drawing.ORDER[:4]]
    turned = [np.rot90(image, 2, (1, 2)), image.swapaxes(1, 2)]
    np.testing.assert_array_equal(made[2:], turned)
    np.testing.assert_array_equal(made[1], np.rot90(turned[1], 2, (1, 2)))


def test_copies_are_of_changed_images_and_come_after_the_views(trained, tmp_path):
    model, split = efficientnet_lite0.build(9, frozen_blocks=1), split_of(18)
    part = feature_cache.part(model.frozen, "imagenet", SHAPE)
    plain = np.array(feature_cache.features(split, part, str(tmp_path)).image)
    still = {"rotation": 0.0, "min_scale": 1.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}

    def copied(**changes):
        changes = Augment(copies=2, **changes)
        return np.float32(feature_cache.features(split, part, str(tmp_path), changes).image)

    same, found = copied(**still, brightness=0.0), copied()
    assert found.shape == (18, 24, 16, 16, 16)
    for copy in range(3):  # flips and right angles are the views'
        np.testing.assert_allclose(same[:, copy * 8 : copy * 8 + 8], plain, atol=4e-3)
    np.testing.assert_array_equal(found[:, :8], plain)
    for one in (0, 17):  # each view of each copy of each image in its own way
        for view in (0, 5):
            apart = [np.abs(found[one, n * 8 + view] - plain[one, view]).max() for n in (1, 2)]
            assert min(apart) > 0.05
            assert apart[0] != apart[1]
    np.testing.assert_array_equal(copied(), found)


def test_features_are_computed_once(trained, tmp_path, monkeypatch, capsys):
    model, split = efficientnet_lite0.build(9, frozen_blocks=1), split_of(3)
    part = feature_cache.part(model.frozen, "imagenet", SHAPE)
    first = np.array(feature_cache.features(split, part, str(tmp_path)).image)
    assert "once" in capsys.readouterr().err
    again = feature_cache.features(split, part, str(tmp_path)).image
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(again, first)
    # Other images, other weights and what was damaged are computed.
    feature_cache.features(split_of(3, seed=1), part, str(tmp_path))
    feature_cache.features(split, part._replace(digest="other"), str(tmp_path))
    files = list(tmp_path.rglob("*.npy"))
    assert len(files) == 3
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    left = files[0].with_name(f".{files[0].name}.4711.0123abcd.tmp")  # by a killed run
    left.touch()
    capsys.readouterr()
    np.testing.assert_array_equal(feature_cache.features(split, part, str(tmp_path)).image, first)
    assert "once" in capsys.readouterr().err
    assert not left.exists()


def test_no_images_have_no_features(trained, tmp_path):
    part = feature_cache.part(
        efficientnet_lite0.build(9, frozen_blocks=1).frozen, "imagenet", SHAPE
    )
    assert feature_cache.features(split_of(0), part, str(tmp_path)).image.shape == (
        0,
        8,
        16,
        16,
        16,
    )


def test_frozen_blocks_want_weights_and_room(trained, tmp_path, monkeypatch):
    model = efficientnet_lite0.build(9, frozen_blocks=1)
    with pytest.raises(UserError, match="weights that others trained"):
        feature_cache.part(model.frozen, "", SHAPE)
    part = feature_cache.part(model.frozen, "imagenet", SHAPE)
    usage = feature_cache.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="has 0 MB free"):
        feature_cache.features(split_of(2), part, str(tmp_path))
    monkeypatch.setattr(feature_cache, "memory_bytes", lambda: 1e6)
    with pytest.raises(UserError, match=r"takes 1 MB of memory, and this machine has 1 MB"):
        feature_cache.features(split_of(10), part, str(tmp_path))
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        feature_cache.features(split_of(2), part, str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("flip", "right_angles", "allowed"),
    [
        (False, False, {0}),
        (True, False, {0, 1}),
        (False, True, {0, 3, 5, 6}),
        (True, True, set(range(8))),
    ],
)
def test_training_draws_the_views_that_its_augmentation_allows(flip, right_angles, allowed):
    prepare = drawing.choose_view(Augment(flip=flip, right_angles=right_angles))
    features = jnp.broadcast_to(jnp.arange(8.0).reshape(1, 8, 1, 1, 1), (200, 8, 2, 2, 1))
    drawn = prepare(features.astype(jnp.float16), jax.random.key(0))
    assert drawn.shape == (200, 2, 2, 1)
    assert drawn.dtype == jnp.float32
    assert set(np.unique(drawn)) == allowed
    copied = jnp.broadcast_to(jnp.arange(24.0).reshape(1, 24, 1, 1, 1), (900, 24, 1, 1, 1))
    prepare = drawing.choose_view(Augment(flip=flip, right_angles=right_angles, copies=2))
    drawn = prepare(copied.astype(jnp.float16), jax.random.key(0))
    assert set(np.unique(drawn)) == {8 * copy + view for copy in range(3) for view in allowed}
    few = drawing.needed(changes := Augment(flip=flip, right_angles=right_angles, copies=2), 1)
    number = 3 * len(few)
    copied = jnp.broadcast_to(
        jnp.arange(1.0 * number).reshape(1, -1, 1, 1, 1), (900, number, 1, 1, 1)
    )
    drawn = drawing.choose_view(changes, few)(copied.astype(jnp.float16), jax.random.key(0))
    assert set(np.unique(drawn)) == set(range(number))
    assert len(few) == len(allowed)


def test_turns_without_mirrors_are_rotations():
    image = np.arange(9).reshape(1, 3, 3, 1)
    turns = {np.rot90(image, k, (1, 2)).tobytes() for k in range(4)}
    assert {
        np.ascontiguousarray(augmentation.mirrored(image, v)).tobytes() for v in (0, 3, 5, 6)
    } == (turns)


@pytest.mark.parametrize("views", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_prediction_from_features_is_that_from_images(tensors, trained, tmp_path, views):
    split = split_of(5)
    whole, model = efficientnet_lite0.build(9), efficientnet_lite0.build(9, frozen_blocks=14)
    part = feature_cache.part(model.frozen, "imagenet", SHAPE)
    features = feature_cache.features(split, part, str(tmp_path))
    expected = predict.predict(whole, params_of(whole, tensors), split.image, views)
    actual = predict.predict(model, params_of(model, tensors), features.image, views)
    np.testing.assert_allclose(actual, expected, atol=0.02)


@pytest.mark.slow
def test_a_run_with_frozen_blocks_trains_goes_on_and_is_evaluated(trained, tmp_path, capsys):
    command = [
        "train",
        f"--config={tiny.__file__}",
        f"--cache_dir={tmp_path / 'cache'}",
        "--evaluate",
        "--config.model.name=efficientnet_lite0",
        "--config.model.options.frozen_blocks=16",
        "--config.pretrained=imagenet",
        "--config.image_size=32",
        "--config.client.epochs=1",
        "--config.client.schedule=constant",
        "--config.tta_views=8",
    ]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.main([*command, f"--workdir={whole}", "--config.rounds=4"]) == 0
    assert cli.main([*command, f"--workdir={parts}", "--config.rounds=2"]) == 0
    assert cli.main([*command, f"--workdir={parts}", "--config.rounds=4"]) == 0
    found = [json.loads((folder / "evaluation.json").read_text()) for folder in (whole, parts)]
    assert found[0] == found[1]
    assert found[0]["round"] in (2, 4)
    assert cli.main(["evaluate", f"--workdir={whole}"]) == 0
    assert json.loads((whole / "evaluation.json").read_text()) == found[0]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
    capsys.readouterr()
    assert cli.main([*command, f"--workdir={tmp_path / 'x'}", "--config.pretrained="]) == 2
    assert "frozen blocks need weights" in capsys.readouterr().err
