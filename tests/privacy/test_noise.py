"""Noise on a grid: its probabilities, and the attacks on float32 noise that it withstands."""

import math
from decimal import Decimal, getcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_med.core import aggregation
from fedjax_med.privacy import dp_mean, gaussian, noise

CLIENTS, NUMBERS, Z = 25, 64, 1.553
ROUNDS = 40


def test_table_is_exact_and_gaussian():
    expected = noise.probabilities()
    words, alias = noise.table()
    found = [0] * len(expected)
    full = 2**128
    for slot, other in enumerate(alias.tolist()):
        threshold = sum(int(word[slot]) << (96 - 32 * place) for place, word in enumerate(words))
        found[slot] += full if other == slot else threshold
        found[other] += 0 if other == slot else full - threshold
    assert found == expected
    k = np.arange(len(expected))
    gaussian_ = stats.norm.pdf(k / 1280) / 1280 * np.where(k, 2, 1)
    near = k < 1280 * 10
    np.testing.assert_allclose(np.array(found, float)[near] / 2.0**142, gaussian_[near], rtol=1e-9)


def _density(t):
    """The integral of the Gaussian density from t - 1/2 to t + 1/2, by Simpson's rule."""
    s, places = Decimal(163840), (Decimal(-1) / 2, Decimal(0), Decimal(1) / 2)
    low, middle, high = (((-((t + place) ** 2)) / (2 * s * s)).exp() for place in places)
    return (low + 4 * middle + high) / 6 / s


def _convolution():
    """The number of ways in which seven numbers from 0 to 127 have each sum."""
    ways = [1]
    for _ in range(7):
        ways = [sum(ways[max(0, k - 127) : k + 1]) for k in range(len(ways) + 127)]
    return ways


def test_noise_is_rounded_gaussian_noise_with_uniform_noise_up_to_what_is_claimed():
    getcontext().prec = 60
    ways = _convolution()
    for deviations in (0, 1, 2.5, 5, 10):
        x = int(deviations * 163840) + 77
        terms = [(x - shift, way) for shift, way in enumerate(ways)]
        drawn = sum(128 * _density(t) * way for t, way in terms if t % 128 == 0)
        ideal = sum(_density(t) * way for t, way in terms)
        hermite = np.polynomial.hermite_e.hermeval((x - 444.5) / 163840, [0] * 7 + [1])
        bound = 2.1 * (abs(hermite) + 30) / (2 * math.pi * 1280) ** 7
        assert abs(float(drawn / ideal - 1)) < bound
    rms = 2.1 * math.sqrt(math.factorial(7)) / (2 * math.pi * 1280) ** 7
    assert rms < 2.0**-83
    n = 2.0**36
    each = 2 * stats.norm.sf(16384 / 1280) + 2.0**-129 + 2.0**-103
    assert math.sqrt(n / 2) * 2.0**-83 + n * each < noise.GAP


def test_draw_compares_128_bits_with_the_threshold(monkeypatch):
    words, alias = noise.table()
    slots = np.nonzero(alias != np.arange(len(alias)))[0][::3000].tolist()
    for slot in slots:
        threshold = sum(int(word[slot]) << (96 - 32 * place) for place, word in enumerate(words))
        for change in (-(2**100), -(2**70), -(2**40), -1, 0, 1, 2**40, 2**70, 2**100):
            drawn = min(max(threshold + change, 0), 2**128 - 1)
            bits = [np.uint32((drawn >> shift) & 0xFFFFFFFF) for shift in (96, 64, 32, 0)]
            first = np.uint32(slot << 18 | 1 << 17)  # the sign is negative
            blocks = [(first, np.uint32(0)), bits[:2], bits[2:]]
            arrays = [tuple(jnp.full(1, each) for each in block) for block in blocks]
            monkeypatch.setattr(noise, "_words", lambda pair, places, block, a=arrays: a[block])
            size = slot if drawn < threshold else int(alias[slot])
            assert int(noise.draw(jax.random.key(0), 1)[0]) == -128 * size - 444


def test_draws_are_gaussian_and_independent():
    drawn = np.asarray(jax.jit(noise.draw, static_argnums=1)(jax.random.key(1), 2**19))
    assert drawn.dtype == np.int32
    scaled = drawn / noise.DEVIATION
    assert stats.kstest(scaled, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(scaled[1:], scaled[:-1])[0, 1]) < 0.006
    assert abs(np.corrcoef(scaled[1:] ** 2, scaled[:-1] ** 2)[0, 1]) < 0.006
    low = np.bincount(drawn & 255, minlength=256)  # the last bits are uniform
    assert stats.chisquare(low).pvalue > 1e-3


def test_noise_is_the_same_alone_and_mapped():
    keys = jax.random.split(jax.random.key(2), 3)
    alone = jax.jit(lambda key: noise.draw(key, 100))
    for key, row in zip(keys, jax.jit(jax.vmap(alone))(keys), strict=True):
        np.testing.assert_array_equal(alone(key), row)


@pytest.mark.parametrize("size", [0, 5, 129, 40_000])
def test_squares_are_summed_exactly(size):
    summed = jax.jit(gaussian._sum_of_squares)
    for largest in (1, 4096, 2**24 - 1):
        whole = np.random.default_rng(size).integers(-largest, largest + 1, size)
        whole[:1] = largest
        expected = sum(int(each) ** 2 for each in whole)
        np.testing.assert_allclose(summed(jnp.asarray(whole, jnp.int32)), expected, rtol=1e-6)


ON_GRID = jax.jit(gaussian._on_grid)


@pytest.mark.parametrize("scale", [1e-30, 0.01, 1.0, 1e4, 1e33, np.nan])
def test_no_tree_is_longer_than_the_clip_whatever_is_believed_of_its_norm(scale):
    rng = np.random.default_rng(3)
    tree = {"a": rng.normal(size=(30, 40)), "b": rng.normal(size=7) ** 9}
    tree = {name: jnp.asarray(scale * leaf, jnp.float32) for name, leaf in tree.items()}
    (right,) = gaussian.norms(jax.tree.map(lambda leaf: leaf[None], tree)).tolist()
    for length in (right, 0.999 * right, 0.0, 1e-30, 0.3, np.inf, np.nan):
        for units in (0.3, 20.0, 1234.5, 105_498.7, noise.DEVIATION * 32):
            whole = ON_GRID(tree, jnp.float32(length), jnp.asarray(True), 0.7, units)
            flat = np.concatenate([leaf.ravel() for leaf in whole.values()]).tolist()
            square = sum(each**2 for each in flat)
            assert square <= units**2
            if 0.7 < length == right < np.inf and units > 1e5:
                assert square >= (0.999 * units) ** 2  # no shorter than needs be


def test_sums_of_many_contributions_fit():
    draw = jax.jit(gaussian.noise_on, static_argnums=(0, 1))
    for contributions in (1000, 10**6):
        on = gaussian.grid(0.5, contributions)
        assert contributions * on.units <= 2.0**30
        drawn = np.asarray(draw(on, 2**14, jax.random.key(4)), float)
        np.testing.assert_allclose(drawn.std() / on.units, 0.5, rtol=0.03)
        assert abs(drawn.mean()) < 0.03 * drawn.std()


# The attacks. The adversary knows all but one client's message, and what that client would send.


def _messages():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(CLIENTS, NUMBERS))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.asarray(rows, jnp.float32)


def _in_float32(mean, key):
    """Release a mean as it was before: with float32 noise."""
    normal = jax.random.normal(key, (NUMBERS,), jnp.float32)
    return mean + np.float32(Z / CLIENTS) * np.asarray(normal)


@jax.jit
def _normal(numbers):
    """What `jax.random.normal` makes of numbers in [0, 1), of 23 random bits each."""
    low = np.nextafter(np.float32(-1), np.float32(0))
    uniform = jnp.maximum(low, numbers * (np.float32(1) - low) + low)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(uniform)


def _reachable(mean, released):
    """Whether some value of `jax.random.normal` takes each mean to what was released: bool [N]."""
    guess = (released.astype(float) - mean) / (Z / CLIENTS)
    place = (stats.norm.cdf(guess) * 2**23).astype(np.int64)
    places = np.clip(place[:, None] + np.arange(-100, 101), 0, 2**23 - 1)
    normal = np.asarray(_normal((places / 2**23).astype(np.float32)))
    reached = mean[:, None] + np.float32(Z / CLIENTS) * normal
    return (reached == released[:, None]).any(axis=1)


def test_float32_noise_tells_who_is_there():
    """The control: the adversary is always right, which epsilon 2.65 at delta 1e-5 forbids."""
    messages = np.asarray(_messages())
    means = [messages[1:].sum(axis=0) / CLIENTS, messages.sum(axis=0) / CLIENTS]
    right = impossible = 0
    for number in range(ROUNDS):
        present = number % 2
        released = _in_float32(means[present], jax.random.fold_in(jax.random.key(6), number))
        absent, there = (_reachable(mean, released) for mean in means)
        right += int(there.sum() > absent.sum()) == present
        impossible += not (absent if present else there).all()
        assert (there if present else absent).all()
    assert right == ROUNDS
    # What is released is nearly always impossible in the other case, where delta allows 1e-5.
    assert impossible / ROUNDS > 0.9


def _likelihoods(whole):
    """The logarithms of the noise's probabilities, up to a constant; minus infinity outside."""
    within = (whole >= -128 * 16383 - 444) & (whole <= 128 * 16383 + 7 * 127 - 444)
    return np.where(within, -0.5 * (whole / noise.DEVIATION) ** 2, -np.inf)


def test_noise_on_a_grid_does_not_tell_who_is_there():
    """Every output is possible with and without the client, and its likelihood tells little."""
    messages, aggregator = _messages(), dp_mean.build(clip_norm=1.0, noise_multiplier=Z)
    on = gaussian.grid(Z, CLIENTS)

    @jax.jit
    def release(present, key):
        weights = jnp.ones(CLIENTS).at[0].set(present)
        state = aggregator.init(messages[0], CLIENTS, CLIENTS)
        return aggregator.update(messages, aggregation.all_clients(weights), state, key)[0]

    def total(present):
        counts = jnp.ones(CLIENTS, bool).at[0].set(present)
        lengths = gaussian.norms(messages)
        return np.asarray(gaussian.clipped_sum(messages, lengths, counts, 1.0, on))

    totals, right, impossible = [total(False), total(True)], 0, 0
    assert 0.999 * on.units < np.linalg.norm(totals[1] - totals[0]) <= on.units
    for number in range(ROUNDS):
        present = number % 2
        released = np.asarray(release(present, jax.random.fold_in(jax.random.key(7), number)))
        # The adversary reads the integers behind what is released, without loss.
        whole = np.rint(released.astype(float) * CLIENTS * on.units)
        np.testing.assert_allclose(whole / CLIENTS / on.units, released, rtol=1e-6)
        known = [_likelihoods(whole - total).sum() for total in totals]
        right += int(np.argmax(known) == present)
        impossible += np.isinf(known).any()
    assert impossible == 0
    # The best guess is right with probability Phi(1 / 2z) = 0.63; epsilon 2.65 allows 0.93.
    assert 0.4 * ROUNDS < right < 0.85 * ROUNDS
