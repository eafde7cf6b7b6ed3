"""Poisson batches: every step draws every example by itself."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from scipy import stats

from fedjax_med.client import batching
from fedjax_med.client.local_training import LocalTrainer, _steps, train
from fedjax_med.privacy.dp_sgd import private_grad_fn

KEY = jax.random.key(9)


def training(batch_size=5, epochs=1, grad_fn=None):
    return LocalTrainer(grad_fn or toy.grad_fn(), optax.sgd(0.1), epochs, batch_size, poisson=True)


def mask(size, room):
    return jnp.arange(room) < size


@functools.cache
def draws(size=21, room=26, batch_size=5, keys=2000):
    """How often each example is in each step, of many keys: bool [keys, steps, room]."""

    def one(key):
        index, real, _, active = _steps(training(batch_size), mask(size, room), key)
        rows = jnp.zeros((index.shape[0], room), jnp.int32)
        steps = jnp.arange(index.shape[0])[:, None]
        return rows.at[jnp.broadcast_to(steps, index.shape), index].add(real), active

    taken, active = jax.jit(jax.vmap(one))(jax.random.split(KEY, keys))
    return np.asarray(taken), np.asarray(active)


def test_every_real_example_is_drawn_as_often_as_the_accounting_says_and_padding_never():
    taken, active = draws()
    assert taken.max() == 1
    assert taken[:, :, 21:].sum() == 0
    steps = taken[:, active[0], :21].reshape(-1, 21)
    rate, deviation = 5 / 21, math.sqrt(5 / 21 * 16 / 21 / len(steps))
    assert np.abs(steps.mean(axis=0) - rate).max() < 4 * deviation


def test_examples_are_drawn_independently_of_each_other_and_of_other_steps():
    taken, _ = draws()
    sizes = taken[:, 0].sum(axis=1)
    np.testing.assert_allclose(sizes.var(), 21 * 5 / 21 * 16 / 21, rtol=0.1)  # binomial
    between = np.corrcoef(taken[:, 0, 0], taken[:, 0, 1])[0, 1]
    over = np.corrcoef(taken[:, 0, 0], taken[:, 1, 0])[0, 1]
    assert max(abs(between), abs(over)) < 4 / math.sqrt(len(taken))


@pytest.mark.parametrize(("size", "steps"), [(0, 0), (1, 1), (5, 1), (6, 2), (26, 6)])
def test_steps_are_counted_by_the_clients_own_examples(size, steps):
    _, _, _, active = _steps(training(epochs=3), mask(size, 26), KEY)
    assert int(active.sum()) == 3 * steps
    assert active.reshape(3, 6)[:, :steps].all()


@pytest.mark.parametrize("size", [3, 5])
def test_client_with_no_more_than_a_batch_has_all_its_examples_in_every_step(size):
    index, real, _, active = _steps(training(epochs=4), mask(size, 26), KEY)
    for step in np.flatnonzero(active):
        assert sorted(np.asarray(index)[step][np.asarray(real)[step]].tolist()) == list(range(size))


def test_more_padding_changes_nothing():
    data = jax.tree.map(lambda leaf: leaf[0], toy.federation((14,)))
    expected = train(training(), toy.params(), data, KEY, jnp.int32(0))
    padded = train(training(), toy.params(), toy.pad(data, 7), KEY, jnp.int32(0))
    toy.assert_close(padded, expected)


def test_empty_batch_is_a_step():
    def grad_fn(params, batch, key):
        del key
        one = jax.tree.map(jnp.ones_like, params)
        return one, {"empty": 1.0 * ~jnp.any(batch.mask)}

    data = jax.tree.map(lambda leaf: leaf[0], toy.federation((40,)))
    one = training(1, grad_fn=grad_fn)
    params, sums = train(one, toy.params(), data, KEY, jnp.int32(0))
    assert float(sums["steps"]) == 40
    assert 5 < float(sums["empty"]) < 25  # a share of 1/e
    toy.assert_close(params["b"], toy.params()["b"] - 0.1 * 40, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4, 16, 64, 200])
def test_a_batch_has_room_for_all_that_is_drawn_but_with_the_probability_that_is_told(batch_size):
    room = batching.poisson_capacity(batch_size, 10**6)
    assert room % 8 == 0
    for size in (room + 1, 2 * room, 10**4, 10**7):
        assert stats.binom.sf(room, size, batch_size / size) < batching.POISSON_TAIL
    assert (
        stats.poisson.sf(room - 8, batch_size) > batching.POISSON_TAIL / 10
        or room <= batch_size + 8
    )


def test_a_batch_needs_no_more_room_than_there_are_examples():
    assert batching.poisson_capacity(16, 20) == 20
    assert batching.poisson_capacity(16, 5) == 5


def test_what_is_beyond_the_room_is_left_out_at_random(monkeypatch):
    monkeypatch.setattr(batching, "poisson_capacity", lambda batch_size, examples: 2)

    def one(key):
        index, real, _, _ = _steps(training(10), mask(10, 10), key)
        return jnp.zeros(10).at[index[0]].add(real[0])

    taken = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, 3000)))
    assert (taken.sum(axis=1) == 2).all()
    np.testing.assert_allclose(taken.mean(axis=0), 0.2, atol=4 * math.sqrt(0.16 / 3000))


def test_every_step_has_a_key_and_a_noise_of_its_own():
    def grad_fn(params, batch, key):
        return jnp.zeros_like(params), {}

    noisy = private_grad_fn(grad_fn, 1.0, 1.0, 5)
    nobody = toy.examples(5, mask=np.zeros(5, bool))

    @jax.jit
    def steps():
        _, _, keys, _ = _steps(training(epochs=3), mask(21, 26), KEY)
        noise = jax.vmap(lambda key: noisy(jnp.zeros(400), nobody, key)[0])(keys)
        return jax.random.key_data(keys), noise

    words, noise = map(np.asarray, steps())
    assert len(np.unique(words, axis=0)) == 3 * 6
    between = np.corrcoef(noise) - np.eye(3 * 6)
    assert np.abs(between).max() < 5 / math.sqrt(400)


def test_without_poisson_every_example_is_in_an_epoch_once():
    plain = training()._replace(poisson=False)
    index, real, _, active = _steps(plain, mask(21, 26), KEY)
    assert sorted(np.asarray(index)[np.asarray(real)].tolist()) == list(range(21))
    assert active.tolist() == [True] * 5 + [False]


def test_room_is_padded_with_examples_that_do_not_count():
    index, real, _, _ = _steps(training(4), mask(40, 60), KEY)
    assert index.shape == real.shape == (15, batching.poisson_capacity(4, 60))
    assert not np.asarray(real).all()
