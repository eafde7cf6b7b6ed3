import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.core import aggregation
from fedjax_med.errors import UserError
from fedjax_med.privacy import dp_mean

KEY = jax.random.key(2)
SENDERS = 6


def messages(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (SENDERS, 3, 2), "b": (SENDERS, 4)}
    return {
        name: jnp.asarray(scale * rng.normal(size=s), jnp.float32) for name, s in shapes.items()
    }


def reduce(aggregator, stacked, weights=None, key=KEY, state=None):
    one = jax.tree.map(lambda leaf: leaf[0], stacked)
    state = aggregator.init(one, SENDERS, SENDERS) if state is None else state
    weights = jnp.ones(SENDERS) if weights is None else jnp.asarray(weights, jnp.float32)
    return jax.jit(aggregator.update)(stacked, aggregation.all_clients(weights), state, key)


def flat(message):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(message)])


def test_without_noise_and_with_a_huge_clip_it_is_the_uniform_mean():
    stacked = messages()
    ours, _ = reduce(dp_mean.build(noise_multiplier=0.0, clip_norm=1e6), stacked, range(1, 7))
    expected, _ = reduce(mean.build(weighting="uniform"), stacked, range(1, 7))
    toy.assert_close(ours, expected)


def test_each_message_is_clipped_over_all_its_leaves_and_the_denominator_is_fixed():
    stacked = messages(scale=3.0)
    ours, _ = reduce(
        dp_mean.build(noise_multiplier=0.0, clip_norm=2.0, rate=0.5), stacked, [1, 9, 0, 1, 1, 0]
    )
    rows = np.stack([flat({name: leaf[i] for name, leaf in stacked.items()}) for i in (0, 1, 3, 4)])
    factors = np.minimum(1, 2.0 / np.linalg.norm(rows, axis=1, keepdims=True))
    assert (factors < 1).any()
    np.testing.assert_allclose(flat(ours), (rows * factors).sum(axis=0) / 3, rtol=1e-5)


def test_noise_has_the_standard_deviation_that_is_promised():
    stacked = jax.tree.map(lambda leaf: jnp.zeros((SENDERS, 200, 100)), {"a": 0, "b": 0})
    noise, _ = reduce(dp_mean.build(noise_multiplier=1.5, clip_norm=2.0, rate=0.5), stacked)
    for leaf in (noise["a"], noise["b"]):
        np.testing.assert_allclose(np.std(leaf), 1.5 * 2.0 / (0.5 * SENDERS), rtol=0.02)
        assert abs(np.mean(leaf)) < 0.03
    assert abs(np.corrcoef(np.ravel(noise["a"]), np.ravel(noise["b"]))[0, 1]) < 0.03


def test_noise_is_there_even_if_nobody_takes_part():
    stacked = jax.tree.map(lambda leaf: leaf * jnp.nan, messages())
    noise, _ = reduce(dp_mean.build(), stacked, [0] * SENDERS)
    assert np.isfinite(flat(noise)).all()
    assert (flat(noise) != 0).all()


def test_every_round_has_its_own_noise():
    first, _ = reduce(dp_mean.build(), messages(), key=jax.random.fold_in(KEY, 1))
    again, _ = reduce(dp_mean.build(), messages(), key=jax.random.fold_in(KEY, 1))
    second, _ = reduce(dp_mean.build(), messages(), key=jax.random.fold_in(KEY, 2))
    toy.assert_same_bits(first, again)
    assert (flat(first) != flat(second)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_message_with_nan_or_infinity_counts_as_zero(bad):
    stacked = messages()
    spoilt = {**stacked, "b": stacked["b"].at[2, 1].set(bad)}
    zeroed = jax.tree.map(lambda leaf: leaf.at[2].set(0.0), stacked)
    toy.assert_same_bits(reduce(dp_mean.build(), spoilt)[0], reduce(dp_mean.build(), zeroed)[0])


BOUNDED = {q: dp_mean.build(noise_multiplier=0.0, clip_norm=0.7, quantile=q) for q in (0.0, 0.5)}


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-12, 0.1, 0.3, 1.0, 1e6, 1e20, np.nan]),
    weight=st.sampled_from([0.0, 1.0, 500.0]),
    client=st.integers(0, SENDERS - 1),
    quantile=st.sampled_from([0.0, 0.5]),
)
def test_one_client_moves_the_mean_by_no_more_than_its_clipped_share(
    seed, scale, weight, client, quantile
):
    aggregator, stacked = BOUNDED[quantile], messages(seed, scale)
    weights = jnp.ones(SENDERS).at[client].set(weight)
    without = jax.tree.map(lambda leaf: leaf.at[client].set(0.0), stacked)
    (one, moved), (other, still) = (
        reduce(aggregator, stacked, weights),
        reduce(aggregator, without, weights.at[client].set(0.0)),
    )
    assert np.linalg.norm(flat(one) - flat(other)) <= 0.7 / SENDERS * (1 + 1e-5)
    # The clip moves by exp(-rate * share of the unclipped), in which a client is 1/2 of n.
    ratio = np.log(float(moved.clip)) - np.log(float(still.clip))
    assert abs(ratio) <= (0.2 * 0.5 / SENDERS * (1 + 1e-4) if quantile else 0)


def test_adaptive_clip_finds_the_quantile_of_the_norms():
    lengths = jnp.array([1.0, 2.0, 3.0, 40.0, 50.0, 60.0])
    stacked = {"a": lengths[:, None] * jnp.array([[0.6, 0.8]])}
    aggregator = dp_mean.build(noise_multiplier=0.0, quantile=0.5, clip_norm=0.1)
    step = jax.jit(lambda state: reduce(aggregator, stacked, state=state)[1])
    state = aggregator.init({"a": stacked["a"][0]}, SENDERS, SENDERS)
    for _ in range(100):
        state = step(state)
    assert 3.0 * 0.9 <= float(state.clip) <= 40.0 * 1.1


def test_counts_are_noised_and_both_noises_cost_what_one_would():
    messages_noise, count_noise = dp_mean.shares_of_noise(1.3, 0.5, 0.1)
    assert messages_noise > 1.3
    total = messages_noise**-2 + (2 * count_noise) ** -2  # Andrew et al., Theorem 1
    np.testing.assert_allclose(total, 1.3**-2, rtol=1e-12)
    aggregator = dp_mean.build(noise_multiplier=1.3, quantile=0.5, clip_norm=1e3)
    keys = jax.random.split(KEY, 4000)
    clips = jax.vmap(lambda key: reduce(aggregator, messages(), key=key)[1].clip)(keys)
    # All messages pass, so log C moves by -rate * (1 + noise / n - 1/2).
    moves = np.log(np.asarray(clips) / 1e3) / -0.2
    np.testing.assert_allclose(moves.mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(moves.std(), count_noise / SENDERS, rtol=0.05)


def test_adaptive_noise_follows_the_clip():
    stacked = {"a": jnp.zeros((SENDERS, 20000))}
    aggregator = dp_mean.build(quantile=0.5, noise_multiplier=2.0)
    state = aggregator.init({"a": stacked["a"][0]}, SENDERS, SENDERS)._replace(
        clip=jnp.float32(5.0)
    )
    noise, _ = reduce(aggregator, stacked, state=state)
    expected = dp_mean.shares_of_noise(2.0, 0.5, 0.1)[0] * 5.0 / SENDERS
    np.testing.assert_allclose(np.std(noise["a"]), expected, rtol=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.0},
        {"noise_multiplier": -1.0},
        {"quantile": 1.0},
        {"clip_rate": 0.0},
        {"count_share": 1.0},
        {"rate": 0.0},
    ],
)
def test_option_out_of_range_is_refused(options):
    (name, value), *_ = options.items()
    with pytest.raises(UserError, match=rf"dp_mean to have {name} .*got {value}"):
        dp_mean.build(**options)
