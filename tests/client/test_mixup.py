"""Mixing of a batch: who is mixed with whom, how much of each, and what the loss makes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.client import augmentation, losses, mixup
from fedjax_med.experiment.config import Augment

KEY = jax.random.key(3)
NOTHING = dataclasses.replace(toy.STILL)
CHANGES = {
    "mixup": dataclasses.replace(NOTHING, mixup=0.4),
    "cutmix": dataclasses.replace(NOTHING, cutmix=1.0),
    "both": dataclasses.replace(NOTHING, mixup=0.4, cutmix=1.0),
    "erase": dataclasses.replace(NOTHING, erase=0.7),
}


def numbered(batch, side=8):
    """Images that are all of one value, 1 to `batch`, each of a class of its own."""
    images = jnp.broadcast_to(
        jnp.arange(1.0, batch + 1)[:, None, None, None], (batch, side, side, 3)
    )
    return images, jnp.eye(batch), jnp.ones(batch, bool)


def test_nothing_to_mix_is_no_function_at_all():
    assert mixup.build(Augment()) is None


def test_mixup_is_the_weighted_mean_with_the_next_image_and_its_label():
    images, targets, mask = numbered(5)
    mixed, mixed_targets = mixup.build(CHANGES["mixup"])(images, targets, mask, KEY)
    share = np.diagonal(mixed_targets)
    partner = np.array([1, 2, 3, 4, 0])
    np.testing.assert_allclose(mixed_targets[np.arange(5), partner], 1 - share, rtol=1e-5)
    np.testing.assert_allclose(np.sum(mixed_targets, 1), 1, rtol=1e-5)
    expected = (np.arange(1, 6) * share + (partner + 1) * (1 - share))[:, None, None, None]
    np.testing.assert_allclose(mixed, np.broadcast_to(expected, mixed.shape), rtol=1e-5)


def test_mixups_weights_follow_the_beta_distribution():
    images, targets, mask = numbered(400, side=1)
    _, mixed = mixup.build(dataclasses.replace(NOTHING, mixup=0.5))(images, targets, mask, KEY)
    share = np.diagonal(mixed)
    assert abs(share.mean() - 0.5) < 0.06
    assert abs(share.var() - 0.125) < 0.02  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_cutmix_pastes_one_box_and_counts_its_area():
    images, targets, mask = numbered(6, side=10)
    mixed, mixed_targets = mixup.build(CHANGES["cutmix"])(images, targets, mask, KEY)
    foreign = np.asarray(mixed[..., 0] != images[..., 0])
    partner = np.array([2, 3, 4, 5, 6, 1.0])[:, None, None]
    np.testing.assert_array_equal(
        mixed[..., 0][foreign], np.broadcast_to(partner, foreign.shape)[foreign]
    )
    np.testing.assert_allclose(np.diagonal(mixed_targets), 1 - foreign.mean((1, 2)), rtol=1e-5)
    for one in foreign:
        rows, columns = np.any(one, 1), np.any(one, 0)
        np.testing.assert_array_equal(one, rows[:, None] & columns[None])  # one box
        assert np.abs(np.diff(rows.astype(int))).sum() <= 2
    assert len({one.sum() for one in foreign}) > 2


def test_both_draw_one_of_the_two_for_each_image():
    images, targets, mask = numbered(64)
    mixed, _ = mixup.build(CHANGES["both"])(images, targets, mask, KEY)
    whole = np.ptp(np.asarray(mixed), axis=(1, 2, 3)) == 0  # mixup keeps such an image of one value
    assert 16 < whole.sum() < 56


def test_erasing_sets_boxes_to_zero_and_leaves_the_labels():
    images, targets, mask = numbered(200, side=20)
    mixed, same = mixup.build(CHANGES["erase"])(images, targets, mask, KEY)
    np.testing.assert_array_equal(same, targets)
    gone = np.asarray(mixed[..., 0] == 0)
    area = gone.mean((1, 2))
    assert 0.6 < np.mean(area > 0) < 0.8
    assert area.max() < 0.4
    np.testing.assert_array_equal(mixed[..., 0][~gone], images[..., 0][~gone])


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_padding_changes_nothing_even_if_it_is_not_a_number(changes):
    images, targets, mask = numbered(5)
    mix = mixup.build(changes)
    expected = mix(images, targets, mask, KEY)
    junk = jnp.full((3, *images.shape[1:]), jnp.nan)
    got = mix(
        jnp.concatenate([images, junk]),
        jnp.concatenate([targets, jnp.full((3, 5), jnp.nan)]),
        jnp.arange(8) < 5,
        KEY,
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one[:5], other)


def test_an_image_without_another_is_mixed_with_itself():
    images, targets, _ = numbered(3)
    mask = jnp.arange(3) < 1
    mixed, mixed_targets = mixup.build(CHANGES["mixup"])(images, targets, mask, KEY)
    np.testing.assert_allclose(mixed[0], images[0], rtol=1e-6)
    np.testing.assert_allclose(mixed_targets[0], targets[0], rtol=1e-6)


def gradient(examples, mix=None, weights=(1.0, 1.0, 1.0), micro_batch=0, focal=0.0, params=None):
    function = losses.cross_entropy(
        toy.model(),
        augmentation.build(toy.STILL),
        jnp.array(weights),
        micro_batch=micro_batch,
        focal=focal,
        mix=mix,
    )
    return function(toy.params() if params is None else params, examples, KEY)


def test_the_loss_of_a_mixed_batch_is_the_mixed_loss():
    examples, share = toy.examples(4), 0.3
    weights = (1.0, 2.0, 0.5)

    def mix(images, targets, mask, key):
        partner = jnp.array([1, 2, 3, 0])
        return images, share * targets + (1 - share) * targets[partner]

    others = examples._replace(label=jnp.roll(examples.label, -1))
    mixed, sums = gradient(examples, mix, weights)
    one, plain = gradient(examples, None, weights)
    other, _ = gradient(others, None, weights)
    expected = jax.tree.map(lambda a, b: share * a + (1 - share) * b, one, other)
    toy.assert_close(mixed, expected)
    toy.assert_close(sums, plain)


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_micro_batches_mix_the_whole_batch(changes):
    examples, mix = toy.examples(6), mixup.build(changes)
    toy.assert_close(gradient(examples, mix, micro_batch=4), gradient(examples, mix))


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_mixed_gradient_does_not_see_padding(changes):
    examples, mix = toy.examples(6), mixup.build(changes)
    toy.assert_close(gradient(toy.pad(examples, 3), mix), gradient(examples, mix))


def test_focal_loss_is_that_of_the_paper():
    examples, gamma = toy.examples(5), 2.0

    def mean(params):
        logits = toy.model().apply(params, augmentation.normalise(examples.image), None)
        log_p = jax.nn.log_softmax(logits)[jnp.arange(5), examples.label]
        return jnp.mean(-((1 - jnp.exp(log_p)) ** gamma) * log_p)

    toy.assert_close(gradient(examples, focal=gamma)[0], jax.grad(mean)(toy.params()))


def test_focal_loss_has_a_gradient_where_the_model_is_certain():
    params = jax.tree.map(lambda leaf: 1e4 * leaf, toy.params())
    found, _ = gradient(toy.examples(5), focal=1.0, params=params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
