"""Aggregators that weigh clients by the global model's loss on their examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import agnostic, mean, q_fair
from fedjax_med.algorithms import _report_loss, fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import aggregation
from fedjax_med.core.algorithm import LOSS_BEFORE
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError

KEY = jax.random.key(1)


def client_info(weights, losses, places=None):
    known = aggregation.all_clients(jnp.asarray(weights, jnp.float32))
    known = known._replace(loss=jnp.asarray(losses, jnp.float32))
    return known if places is None else known._replace(client=jnp.asarray(places, jnp.int32))


def messages(seed, size):
    rng = np.random.default_rng(seed)
    return {"a": jnp.asarray(rng.normal(size=(size, 3)), jnp.float32)}


# --- q-FedAvg ---------------------------------------------------------------------------------


def test_q_of_zero_is_the_uniform_mean_whatever_the_losses():
    stacked, known = messages(0, 4), client_info([9, 1, 0, 4], [0.0, 3.0, 1.0, 0.5])
    message, _ = q_fair.build(q=0.0).update(stacked, known, (), KEY)
    expected, _ = mean.build(weighting="uniform").update(stacked, known, (), KEY)
    toy.assert_close(message, expected)


def test_q_of_one_with_two_clients_is_as_by_hand():
    # Losses 2 and 1, deltas (1, 0) and (0, 2), L = 2: the numerator is 2*2*(1, 0) + 1*2*(0, 2) and
    # the denominator (4*1 + 2*2) + (4*4 + 2*1).
    stacked = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([[0.0], [2.0]])}
    message, _ = q_fair.build(q=1.0, learning_rate=0.5).update(
        stacked, client_info([5, 1], [2.0, 1.0]), (), KEY
    )
    toy.assert_close(message, {"a": jnp.array(4 / 26), "b": jnp.array([4 / 26])})


@pytest.mark.parametrize("q", [0.3, 2.0, 5.0])
def test_q_fair_is_the_papers_formula_over_the_clients_that_count(q):
    stacked, losses, rate = messages(1, 5), np.array([0.7, 2.0, 9.0, 1.1, 0.2]), 0.2
    bad = {"a": stacked["a"].at[2].set(jnp.nan)}
    losses[2] = np.nan
    message, _ = jax.jit(q_fair.build(q=q, learning_rate=rate).update)(
        bad, client_info([3, 1, 0, 2, 5], losses), (), KEY
    )
    deltas, above, below = np.asarray(stacked["a"], np.float64), 0.0, 0.0
    for client in (0, 1, 3, 4):
        loss, delta = losses[client], deltas[client]
        above = above + loss**q * delta / rate
        below += q * loss ** (q - 1) * (delta @ delta) / rate**2 + loss**q / rate
    np.testing.assert_allclose(message["a"], above / below, rtol=1e-4)


def test_q_fair_is_finite_with_extreme_losses_and_zero_with_nobody():
    stacked = messages(2, 3)
    for q in (0.1, 5.0, 30.0):
        aggregator = q_fair.build(q=q)
        message, _ = aggregator.update(stacked, client_info([1, 1, 1], [0.0, 1e-6, 100.0]), (), KEY)
        assert np.isfinite(message["a"]).all()
        nobody, _ = aggregator.update(stacked, client_info([0, 0, 0], [1.0, 2.0, jnp.nan]), (), KEY)
        assert (np.asarray(nobody["a"]) == 0).all()


# --- agnostic ---------------------------------------------------------------------------------


def weights(state):
    return np.exp(np.asarray(state, np.float64))


def test_agnostic_begins_with_the_uniform_mean():
    stacked, known = messages(3, 4), client_info([9, 1, 2, 4], [0.0, 3.0, 1.0, 0.5])
    aggregator = agnostic.build()
    message, _ = aggregator.update(stacked, known, aggregator.init({}, 4, 4), KEY)
    toy.assert_close(message, {"a": jnp.mean(stacked["a"], axis=0)})


def test_agnostic_weights_are_multiplied_by_the_exponential_of_the_loss():
    aggregator, stacked = agnostic.build(step_size=0.5), messages(3, 2)
    state = aggregator.init({}, 2, 2)
    for done in range(1, 4):
        before = weights(state)
        message, state = aggregator.update(stacked, client_info([3, 8], [2.0, 1.0]), state, KEY)
        np.testing.assert_allclose(message["a"], before @ stacked["a"], rtol=1e-5, atol=1e-6)
        rise = np.exp(0.5 * done * np.array([2.0, 1.0]))
        np.testing.assert_allclose(weights(state), rise / rise.sum(), rtol=1e-5)


def test_agnostic_weights_stay_on_the_simplex_and_absent_clients_keep_theirs():
    aggregator, state = agnostic.build(step_size=0.7), agnostic.build().init({}, 6, 3)
    rng = np.random.default_rng(0)
    for turn in range(30):
        places = np.sort(rng.permutation(6)[:3])
        shares = rng.integers(1, 9, 3) * (rng.random(3) > 0.3)  # some of the chosen do not count
        losses = np.where(shares > 0, rng.random(3) * 3, np.nan)
        message, new = aggregator.update(
            messages(turn, 3), client_info(shares, losses, places), state, KEY
        )
        assert weights(new).sum() == pytest.approx(1, abs=1e-4)
        assert np.isfinite(message["a"]).all()
        away = np.setdiff1d(np.arange(6), places[shares > 0])
        np.testing.assert_array_equal(new[away], state[away])
        state = new
    assert weights(state).std() > 0.05


def test_agnostic_message_of_some_clients_is_a_mean_by_their_weights_alone():
    aggregator = agnostic.build()
    state = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
    stacked = {"a": jnp.array([[10.0], [20.0], [jnp.nan]])}
    message, _ = aggregator.update(
        stacked, client_info([5, 1, 0], [1, 2, 3], [0, 2, 3]), state, KEY
    )
    toy.assert_close(message, {"a": jnp.array([(0.1 * 10 + 0.3 * 20) / 0.4])})


# --- what the papers find -----------------------------------------------------------------------


def odd_one_out():
    """Three clients that agree on the classes and one that names them otherwise."""
    data = toy.federation((12, 12, 12, 12))
    return data._replace(label=data.label.at[3].set((data.label[3] + 1) % toy.CLASSES))


@functools.cache
def final_losses(name, options=()):
    """Each client's loss after training with the aggregator."""
    build = {"mean": mean.build, "q_fair": q_fair.build, "agnostic": agnostic.build}[name]
    aggregator, data = build(**dict(options)), odd_one_out()
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.05), 1, 0)
    algorithm = _report_loss.report_loss(fed_avg.build(training, optax.sgd(1.0)), training)
    state = Process(algorithm, aggregator).init(toy.params(), data)

    def step(state, _):
        state, metrics = Process(algorithm, aggregator).round(state, data, KEY)
        return state, metrics[LOSS_BEFORE]

    return np.asarray(jax.jit(lambda state: jax.lax.scan(step, state, length=150))(state)[1][-1])


def test_larger_q_narrows_the_spread_of_the_clients_losses():
    even, *fairer = (
        final_losses("mean"),
        *(final_losses("q_fair", (("q", q), ("learning_rate", 0.5))) for q in (1.0, 5.0)),
    )
    assert even.std() > 1.5 * fairer[0].std() > 1.5**2 * fairer[1].std()
    assert even.max() > 1.1 * fairer[0].max()  # not because nobody has learned anything
    assert even.max() > 1.1 * fairer[1].max()


def test_agnostic_lowers_the_loss_of_the_worst_client():
    worst = final_losses("agnostic", (("step_size", 0.1),)).max()
    assert worst < 0.9 * final_losses("mean").max()


@pytest.mark.parametrize(
    ("build", "options", "words"),
    [
        (q_fair.build, {"q": -1.0}, "q >= 0, got q=-1.0"),
        (q_fair.build, {"q": float("nan")}, "q >= 0"),
        (q_fair.build, {"learning_rate": 0.0}, "learning_rate > 0, got 0.0"),
        (agnostic.build, {"step_size": 0.0}, "step_size > 0, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(build, options, words):
    with pytest.raises(UserError, match=words):
        build(**options)


def test_fair_aggregators_ask_for_the_losses():
    assert q_fair.build().needs_loss
    assert agnostic.build().needs_loss
