import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.client import augmentation
from fedjax_med.experiment.config import Augment

KEY = jax.random.key(5)


def image(batch=4, size=6, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8))


def pixels(normalised):
    """Back from normalised values to 0 to 255."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return (np.asarray(normalised) * std + mean) * 255


def test_normalise_of_known_pixels():
    value = augmentation.normalise(jnp.array([[[[0, 255, 128]]]], jnp.uint8))
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    np.testing.assert_allclose(value[0, 0, 0], expected, rtol=1e-5)


def test_all_off_is_normalisation_alone():
    batch = image()
    np.testing.assert_array_equal(
        augmentation.build(toy.STILL)(batch, KEY), augmentation.normalise(batch)
    )


def test_flips_and_right_angles_give_the_eight_symmetries_exactly():
    changes = dataclasses.replace(toy.STILL, flip=True, right_angles=True)
    one = image(1)
    result = pixels(augmentation.build(changes)(jnp.repeat(one, 64, axis=0), KEY))
    original = np.asarray(one[0], np.float32)
    symmetries = [
        np.rot90(side, turns) for side in (original, original[:, ::-1]) for turns in range(4)
    ]
    found = set()
    for picture in result:
        distances = [np.abs(picture - symmetry).max() for symmetry in symmetries]
        assert min(distances) < 0.5
        found.add(int(np.argmin(distances)))
    assert found == set(range(8))


def test_crop_stays_inside_the_image():
    changes = dataclasses.replace(toy.STILL, min_scale=0.5)
    ramp = jnp.broadcast_to(jnp.arange(16, dtype=jnp.uint8)[None, :, None, None], (32, 16, 16, 3))
    result = pixels(augmentation.build(changes)(ramp, KEY))
    spans = result[:, -1, 8, 0] - result[:, 0, 8, 0]
    assert result.min() > -0.01
    assert result.max() < 15.01
    assert 7 < spans.min() < spans.max() < 15.01  # between half of the image and all of it
    assert np.diff(result[:, :, 8, 0], axis=1).min() > 0  # nothing is mirrored in


def test_warp_by_a_shift_of_one_pixel():
    batch = image(1, size=4).astype(jnp.float32)
    shift = jnp.array([[0.25, 0.0]])  # one of four rows
    moved = augmentation.warp(batch, jnp.eye(2)[None], shift)
    np.testing.assert_allclose(moved[0, :3], batch[0, 1:], atol=1e-3)
    np.testing.assert_allclose(moved[0, 3], batch[0, 2], atol=1e-3)  # mirrored at the edge


def test_warp_between_two_pixels_is_their_mean():
    batch = image(1, size=4).astype(jnp.float32)
    moved = augmentation.warp(batch, jnp.eye(2)[None], jnp.array([[0.0, 0.125]]))
    np.testing.assert_allclose(moved[0, :, :3], (batch[0, :, :3] + batch[0, :, 1:]) / 2, atol=1e-2)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_change_changes_images_but_not_by_much(name):
    changes = dataclasses.replace(toy.STILL, **{name: 0.1})
    batch = image(8) // 2 + 64
    difference = pixels(augmentation.build(changes)(batch, KEY)) - np.asarray(batch)
    assert np.abs(difference).max() > 1
    assert np.abs(difference).max() < 80
    per_image = np.abs(difference).mean((1, 2, 3))
    assert len(set(np.round(per_image, 4))) == 8  # each image has its own draw


def test_saturation_and_hue_leave_grey_alone():
    changes = dataclasses.replace(toy.STILL, saturation=0.5, hue=0.3)
    grey = jnp.broadcast_to(image(3)[..., :1], (3, 6, 6, 3))
    np.testing.assert_allclose(pixels(augmentation.build(changes)(grey, KEY)), grey, atol=0.6)


def test_contrast_keeps_the_mean():
    changes = dataclasses.replace(toy.STILL, contrast=0.3)
    batch = image(5) // 4 + 96
    result = pixels(augmentation.build(changes)(batch, KEY))
    np.testing.assert_allclose(result.mean((1, 2, 3)), np.asarray(batch).mean((1, 2, 3)), atol=0.05)


def test_same_key_same_bits_other_key_other_bits():
    prepare = jax.jit(augmentation.build(Augment()))
    batch = image()
    np.testing.assert_array_equal(prepare(batch, KEY), prepare(batch, KEY))
    assert not np.array_equal(prepare(batch, KEY), prepare(batch, jax.random.key(6)))


def test_an_image_is_changed_the_same_whatever_stands_beside_it():
    prepare = augmentation.build(Augment())
    batch = image(4)
    other = batch.at[1:].set(0)
    np.testing.assert_allclose(prepare(batch, KEY)[0], prepare(other, KEY)[0], rtol=1e-6)


def test_every_change_has_a_draw_of_its_own():
    grey = jnp.full((64, 6, 6, 3), 128, jnp.uint8)
    ramp = grey.at[..., 0].add(40).at[:, :3].add(-30)
    effects = {}
    for name in ("brightness", "contrast", "saturation", "hue"):
        changes = dataclasses.replace(toy.STILL, **{name: 0.1})
        difference = pixels(augmentation.build(changes)(ramp, KEY)) - np.asarray(ramp)
        effects[name] = difference[:, 0, 0, 0]
    turned = augmentation.build(dataclasses.replace(toy.STILL, rotation=20.0))(ramp, KEY)
    effects["rotation"] = np.asarray(turned)[:, 0, 0, 0]
    correlation = np.corrcoef(list(effects.values()))
    assert np.abs(correlation - np.eye(5)).max() < 0.5


def test_colour_constancy_takes_a_cast_of_light_away():
    grey = jnp.broadcast_to(image(2)[..., :1], (2, 6, 6, 3)) // 2
    cast = jnp.array([1.0, 0.8, 0.6])
    lit = jnp.round(grey * cast[None, None, None]).astype(jnp.uint8)
    found = pixels(augmentation.normalise(lit, colour_constancy=6.0))
    np.testing.assert_allclose(
        found[..., 0], found[..., 2], atol=2.5
    )  # grey again, but for rounding
    # The light keeps its strength: the root mean square of its colour.
    strength = np.sqrt(np.mean(np.square(cast)))
    np.testing.assert_allclose(found[..., 0], grey[..., 0] * strength, atol=2.5)


def test_colour_constancy_of_a_known_image():
    two = jnp.array([[[[10, 20, 30]], [[30, 20, 50]]]], jnp.uint8)
    light = np.sqrt(np.array([(10**2 + 30**2) / 2, 20**2, (30**2 + 50**2) / 2]))
    expected = np.asarray(two) * np.sqrt(np.mean(light**2)) / light
    found = pixels(augmentation.normalise(two, colour_constancy=2.0))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_colour_constancy_is_the_same_in_training_and_leaves_black_alone():
    batch = image().at[0].set(0)
    trained = augmentation.build(toy.STILL, colour_constancy=6.0)(batch, KEY)
    np.testing.assert_array_equal(trained, augmentation.normalise(batch, colour_constancy=6.0))
    np.testing.assert_allclose(pixels(trained[0]), 0, atol=1e-4)
