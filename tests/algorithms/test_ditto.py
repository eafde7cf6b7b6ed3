"""Ditto: FedAvg, and beside it a model for each client that is pulled to the global one."""

import contradiction
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from contradiction import client, personal, rounds

from fedjax_med.algorithms import ditto, fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.errors import UserError

SIZES = (6, 3, 4)
DATA = toy.federation(SIZES)
ADAM = LocalTrainer(toy.grad_fn(), optax.adam(0.05), 2, 2)


def plain(**options):
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 2, 0)
    return ditto.build(training, optax.sgd(1.0), **options)


def test_global_model_is_that_of_fed_avg():
    state, metrics = rounds(ditto.build(ADAM, optax.adam(0.1), weight=0.5), DATA)[-1]
    other, expected = rounds(fed_avg.build(ADAM, optax.adam(0.1)), DATA)[-1]
    toy.assert_same_bits(state.server, other.server)
    toy.assert_same_bits(metrics, expected)


def test_without_a_pull_each_has_the_model_of_training_alone():
    algorithm = ditto.build(ADAM, optax.sgd(1.0), weight=0.0)
    state = rounds(algorithm, DATA)[-1][0]
    alone = fed_avg.build(ADAM, optax.sgd(1.0), keep_optimizer=True)
    data = jax.tree.map(lambda leaf: leaf[2:], DATA)
    other = rounds(alone, data, ids=jnp.array([2], jnp.int32))[-1][0]
    toy.assert_close(personal(algorithm, state, 2), other.server.params, rtol=1e-4)
    toy.assert_close(client(state.clients.optimizer, 2), client(other.clients, 0), rtol=1e-4)


def test_two_rounds_are_those_of_numpy():
    history = rounds(plain(weight=0.7, epochs=3), DATA, 2)
    shared = contradiction.numbers(toy.params())
    own = [shared] * 3
    for state, _ in history[1:]:
        models, before = [], own
        own = []
        for k in range(3):
            one, mine = shared, before[k]
            for _ in range(2):
                one = contradiction.move(one, contradiction.gradient(one, client(DATA, k)), 0.1)
            for _ in range(3):
                step = contradiction.gradient(mine, client(DATA, k))
                step = {n: step[n] + 0.7 * (mine[n] - shared[n]) for n in "wb"}
                mine = contradiction.move(mine, step, 0.1)
            models.append(one)
            own.append(mine)
        shared = contradiction.mean_of(models, SIZES)
        toy.assert_close(state.server.params, shared, rtol=1e-4, atol=1e-5)
        for k in range(3):
            toy.assert_close(client(state.clients.params, k), own[k], rtol=1e-4, atol=1e-5)


def test_strong_pull_keeps_own_models_near_the_global_one():
    far = {}
    for weight in (0.0, 9.0):
        history = rounds(plain(weight=weight), contradiction.data(), 5)
        sent, state = history[-2][0].server.params["w"], history[-1][0]
        far[weight] = float(jnp.linalg.norm(state.clients.params["w"] - sent[None]))
    assert far[9.0] < 0.35 * far[0.0]


def test_own_models_are_right_where_clients_contradict_each_other():
    data, algorithm = contradiction.data(), plain(weight=0.1)
    state = rounds(algorithm, data, 30)[-1][0]
    grad_fn = toy.grad_fn()
    assert contradiction.correct(grad_fn, lambda number: state.server.params, data) < 0.6
    assert contradiction.correct(grad_fn, lambda k: personal(algorithm, state, k), data) > 0.9


def test_absent_clients_keep_their_model():
    contradiction.check_absent_clients_keep_what_they_have(plain(), DATA)


def test_client_without_examples_keeps_the_first_model_however_strong_the_pull():
    state = rounds(plain(weight=5.0), toy.federation((6, 0)))[-1][0]
    toy.assert_same_bits(client(state.clients.params, 1), toy.params())
    assert not np.array_equal(state.server.params["w"], toy.params()["w"])


@pytest.mark.parametrize("options", [{"weight": -0.1}, {"epochs": -1}, {"weight": float("nan")}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UserError, match="expected algorithm ditto to have weight >= 0"):
        plain(**options)
