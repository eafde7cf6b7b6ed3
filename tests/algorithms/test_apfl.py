"""APFL: between the global model (alpha 0) and one trained alone (alpha 1)."""

import contradiction
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from contradiction import client, personal, rounds

from fedjax_med.algorithms import apfl, fed_avg
from fedjax_med.client import optimizers
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.errors import UserError

SIZES = (6, 3, 4)
DATA = toy.federation(SIZES)
ADAM = LocalTrainer(toy.grad_fn(), optax.adam(0.05), 2, 2)


def plain(**options):
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 2, 0)
    return apfl.build(training, optax.sgd(1.0), **options)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_global_model_is_that_of_fed_avg_and_with_alpha_0_what_clients_use(alpha):
    algorithm = apfl.build(ADAM, optax.adam(0.1), alpha=alpha)
    state, metrics = rounds(algorithm, DATA)[-1]
    other, expected = rounds(fed_avg.build(ADAM, optax.adam(0.1)), DATA)[-1]
    toy.assert_same_bits(state.server, other.server)
    toy.assert_same_bits(metrics, expected)
    same = [personal(algorithm, state, k)["w"] == other.server.params["w"] for k in range(3)]
    assert bool(jnp.all(jnp.stack(same))) == (alpha == 0)


def test_with_alpha_1_each_has_the_model_of_training_alone():
    algorithm = apfl.build(ADAM, optax.sgd(1.0), alpha=1.0)
    state = rounds(algorithm, DATA)[-1][0]
    alone = fed_avg.build(ADAM, optax.sgd(1.0), keep_optimizer=True)
    data = jax.tree.map(lambda leaf: leaf[2:], DATA)
    other = rounds(alone, data, ids=jnp.array([2], jnp.int32))[-1][0]
    toy.assert_close(personal(algorithm, state, 2), other.server.params, rtol=1e-4)
    toy.assert_close(client(state.clients.optimizer, 2), client(other.clients, 0), rtol=1e-4)


def mixed(alpha, own, shared):
    return {n: alpha * own[n] + (1 - alpha) * shared[n] for n in "wb"}


def test_two_rounds_are_those_of_numpy():
    algorithm = plain(alpha=0.3, adapt=0.02)
    history = rounds(algorithm, contradiction.data(SIZES), 2)
    shared = contradiction.numbers(toy.params())
    clients = [(shared, 0.3)] * 3
    for state, _ in history[1:]:
        models = []
        for k, (own, alpha) in enumerate(clients):
            one, examples = shared, client(contradiction.data(SIZES), k)
            for _ in range(2):
                step = contradiction.gradient(mixed(alpha, own, one), examples)
                slope = sum(np.sum(step[n] * (own[n] - one[n])) for n in "wb")
                moved = contradiction.move(own, step, 0.1 * alpha)
                one = contradiction.move(one, contradiction.gradient(one, examples), 0.1)
                own, alpha = moved, np.clip(alpha - 0.02 * slope, 0, 1)
            models.append(one)
            clients[k] = (own, alpha)
        shared = contradiction.mean_of(models, SIZES)
        toy.assert_close(state.server.params, shared, rtol=1e-4, atol=1e-5)
        for k, (own, alpha) in enumerate(clients):
            toy.assert_close(client(state.clients.params, k), own, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(state.clients.alpha[k], alpha, rtol=1e-4)
            used = mixed(alpha, own, shared)
            toy.assert_close(personal(algorithm, state, k), used, rtol=1e-4, atol=1e-5)
    assert abs(state.clients.alpha - 0.3).min() > 1e-4


def test_alpha_stays_without_adapt_and_in_its_range_with_any():
    data = contradiction.data()
    assert (rounds(plain(alpha=0.3), data)[-1][0].clients.alpha == jnp.float32(0.3)).all()
    alphas = [state.clients.alpha for state, _ in rounds(plain(adapt=50.0), data, 6)]
    assert (jnp.stack(alphas) >= 0).all()
    assert (jnp.stack(alphas) <= 1).all()
    assert jnp.stack(alphas).max() == 1


def test_alpha_grows_where_the_global_model_does_not_suit():
    alpha = rounds(plain(alpha=0.5, adapt=0.1), contradiction.data(), 8)[-1][0].clients.alpha
    assert (alpha > 0.7).all()


def test_backbone_rate_applies_to_both_models():
    training = LocalTrainer(
        contradiction.grad_fn(),
        optimizers.discriminative_rates(optax.sgd(0.1), 0.0, "classifier"),
        1,
        4,
    )
    start = contradiction.params()
    algorithm = apfl.build(training, optax.sgd(1.0))
    state = rounds(algorithm, contradiction.data((5, 4)), 2, start)[-1][0]
    used = personal(algorithm, state, 0)
    toy.assert_close(used["body"], start["body"])
    assert abs(used["classifier"]["kernel"] - start["classifier"]["kernel"]).max() > 1e-3


def test_mixtures_are_right_where_clients_contradict_each_other():
    data, algorithm = contradiction.data(), plain(alpha=0.7)
    state = rounds(algorithm, data, 30)[-1][0]
    grad_fn = toy.grad_fn()
    assert contradiction.correct(grad_fn, lambda number: state.server.params, data) < 0.6
    assert contradiction.correct(grad_fn, lambda k: personal(algorithm, state, k), data) > 0.9


def test_absent_clients_keep_their_model_and_alpha():
    contradiction.check_absent_clients_keep_what_they_have(plain(adapt=0.1), DATA)


def test_client_without_examples_keeps_its_model_and_alpha():
    state = rounds(plain(adapt=0.1), toy.federation((6, 0)))[-1][0]
    toy.assert_same_bits(client(state.clients.params, 1), toy.params())
    assert state.clients.alpha[1] == 0.5
    assert state.clients.alpha[0] != 0.5


@pytest.mark.parametrize("options", [{"alpha": 1.1}, {"alpha": -0.1}, {"adapt": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=r"apfl to have alpha in \[0, 1\] and adapt >= 0"):
        plain(**options)
