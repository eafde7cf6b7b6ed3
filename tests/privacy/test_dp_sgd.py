import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.core.types import Examples
from fedjax_med.privacy.dp_sgd import private_grad_fn

KEY = jax.random.key(5)
B = 10


@functools.cache
def private(clip_norm=1e6, noise_multiplier=0.0, chunk=4):
    return jax.jit(private_grad_fn(toy.grad_fn(), clip_norm, noise_multiplier, B, chunk))


def flat(gradient):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def without(batch, *places):
    return batch._replace(mask=batch.mask.at[jnp.array(places)].set(False))


def test_without_noise_and_with_a_huge_clip_it_is_the_mean_gradient():
    batch = toy.examples(B)
    ours, sums = private()(toy.params(), batch, KEY)
    expected, expected_sums = toy.grad_fn()(toy.params(), batch, KEY)
    toy.assert_close(ours, expected, rtol=1e-4)
    toy.assert_close(sums, expected_sums)


def test_denominator_is_the_expected_batch_and_not_the_drawn_one():
    batch = without(toy.examples(B), 1, 2, 7, 8, 9)
    ours, _ = private()(toy.params(), batch, KEY)
    mean, _ = toy.grad_fn()(toy.params(), batch, KEY)
    toy.assert_close(ours, jax.tree.map(lambda leaf: leaf * 5 / B, mean), rtol=1e-4)


@pytest.mark.parametrize("clip", [1e-3, 0.05, 1.0])
def test_one_example_moves_the_gradient_by_no_more_than_its_clipped_share(clip):
    batch = toy.examples(B, seed=1)
    whole, _ = private(clip)(toy.params(), batch, KEY)
    moves = []
    for place in range(B):
        part, _ = private(clip)(toy.params(), without(batch, place), KEY)
        moves.append(np.linalg.norm(flat(whole) - flat(part)))
    assert max(moves) <= clip / B * (1 + 1e-3)
    if clip == 1e-3:  # here all are clipped, and each has its whole share
        np.testing.assert_allclose(moves, clip / B, rtol=1e-2)


def test_noise_has_the_standard_deviation_that_is_promised_even_for_an_empty_batch():
    empty = toy.examples(B, mask=np.zeros(B, bool))
    keys = jax.random.split(KEY, 300)
    noise = jax.vmap(lambda key: private(2.0, 1.5)(toy.params(), empty, key)[0])(keys)
    np.testing.assert_allclose(np.std(flat(noise)), 1.5 * 2.0 / B, rtol=0.02)
    assert abs(flat(noise).mean()) < 0.01


def test_padding_has_no_influence_on_gradient_noise_or_sums():
    batch = toy.examples(B)
    expected = private(0.1, 1.0)(toy.params(), batch, KEY)
    toy.assert_close(private(0.1, 1.0)(toy.params(), toy.pad(batch, 5), KEY), expected)


def test_chunks_give_what_all_at_once_does():
    batch = toy.examples(B)
    expected = private(0.1, 1.0, chunk=16)(toy.params(), batch, KEY)
    for chunk in (1, 3, 4):
        toy.assert_close(private(0.1, 1.0, chunk=chunk)(toy.params(), batch, KEY), expected)


def test_example_whose_gradient_is_not_a_number_counts_as_zero():
    def grad_fn(params, batch, key):
        value = jnp.where(batch.label[0] == 1, jnp.nan, 1.0) * batch.mask[0]
        return jnp.full(3, value), {}

    label = jnp.array([0, 1, 0, 0], jnp.int32)
    batch = Examples(jnp.zeros((4, 1, 1, 3), jnp.uint8), label, jnp.ones(4, bool))
    gradient, _ = private_grad_fn(grad_fn, 100.0, 0.0, 4)(jnp.zeros(3), batch, KEY)
    np.testing.assert_allclose(gradient, 3 / 4)


def test_each_example_has_a_key_of_its_own():
    def grad_fn(params, batch, key):
        draw = jax.random.uniform(key)
        return jax.random.normal(key, (3,)), {"draw": draw, "square": draw**2}

    batch = toy.examples(6)
    gradient, sums = private_grad_fn(grad_fn, 100.0, 0.0, 6)(jnp.zeros(3), batch, KEY)
    other, _ = private_grad_fn(grad_fn, 100.0, 0.0, 6)(jnp.zeros(3), batch, jax.random.key(6))
    assert len(set(np.round(np.asarray(gradient), 5).tolist())) == 3
    assert not np.allclose(gradient, other)
    # Of six equal draws this would be zero.
    assert 6 * float(sums["square"]) - float(sums["draw"]) ** 2 > 0.5


def test_padding_counts_as_zero_even_if_its_gradient_is_not():
    def grad_fn(params, batch, key):
        return jnp.ones(3), {}

    batch = toy.examples(4, mask=[True, False, True, False])
    gradient, _ = private_grad_fn(grad_fn, 100.0, 0.0, 4)(jnp.zeros(3), batch, KEY)
    np.testing.assert_allclose(gradient, 2 / 4)
