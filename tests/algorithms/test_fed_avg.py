"""FedAvg with optax's optimizers on the server: FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.round import init, run_round
from fedjax_med.experiment import components, resolve
from fedjax_med.experiment.config import read

KEY = jax.random.key(2)
DATA = toy.federation((6, 3, 4))


def run(server_optimizer, number=3):
    """The messages the server got and the parameters it made of them."""
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), server_optimizer)
    messages = []

    def spy(server, message):
        messages.append(message)
        return algorithm.server_update(server, message)

    spied = algorithm._replace(server_update=spy)
    aggregator = mean.build()
    state = init(algorithm, aggregator, toy.params(), DATA)
    history = []
    for _ in range(number):
        state, _ = run_round(spied, aggregator, state, DATA, KEY)
        history.append(state.server.params)
    return messages, history


def weights(tree):
    return np.asarray(tree["w"], np.float64)


def test_sgd_with_rate_one_is_the_weighted_mean_of_the_clients_models():
    _, history = run(optax.sgd(1.0), 1)
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1))
    algorithm = fed_avg.build(training, optax.sgd(1.0))
    server, client = algorithm.init(toy.params())
    clients_key, _ = jax.random.split(jax.random.fold_in(KEY, 0))
    locals_ = []
    for number in range(3):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], DATA)
        key = jax.random.fold_in(clients_key, number)
        result = algorithm.client_update(server, client, one, jnp.int32(0), key)
        locals_.append(toy.params()["w"] - result.update["w"])
    expected = (6 * locals_[0] + 3 * locals_[1] + 4 * locals_[2]) / 13
    np.testing.assert_allclose(history[0]["w"], expected, rtol=1e-4, atol=1e-6)


def test_fed_avg_m_is_the_momentum_recursion():
    messages, history = run(optax.sgd(0.7, momentum=0.9))
    params, velocity = weights(toy.params()), 0.0
    for message, actual in zip(messages, history, strict=True):
        velocity = 0.9 * velocity + weights(message)
        params = params - 0.7 * velocity
        np.testing.assert_allclose(actual["w"], params, rtol=1e-4, atol=1e-6)


def test_fed_adagrad_is_its_recursion():
    # Reddi et al. (ICLR 2021), algorithm 2, without first moment.
    optimizer = optax.adagrad(0.1, initial_accumulator_value=0.01, eps=1e-3)
    messages, history = run(optimizer)
    params, total = weights(toy.params()), 0.01
    for message, actual in zip(messages, history, strict=True):
        total = total + weights(message) ** 2
        params = params - 0.1 * weights(message) / np.sqrt(total + 1e-3)
        np.testing.assert_allclose(actual["w"], params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_fed_adam_and_fed_yogi_are_their_recursions(name):
    eps = 1e-3
    optimizer = getattr(optax, name)(0.05, b1=0.9, b2=0.99, eps=eps)
    messages, history = run(optimizer)
    params, first, second = weights(toy.params()), 0.0, 1e-6 if name == "yogi" else 0.0
    first = 1e-6 if name == "yogi" else 0.0
    for step, (message, actual) in enumerate(zip(messages, history, strict=True), 1):
        delta = weights(message)
        first = 0.9 * first + 0.1 * delta
        if name == "adam":
            second = 0.99 * second + 0.01 * delta**2
        else:
            second = second - 0.01 * np.sign(second - delta**2) * delta**2
        corrected = np.sqrt(second / (1 - 0.99**step)) + eps
        params = params - 0.05 * first / (1 - 0.9**step) / corrected
        np.testing.assert_allclose(actual["w"], params, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["fed_avgm", "fed_adam", "fed_yogi", "fed_adagrad"])
def test_config_builds_its_server_optimizer_and_lowers_the_loss(name):
    experiment = resolve.complete(read(f"configs/{name}.py"))
    optimizer = components.build("optax", experiment.server_optimizer)
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.05))
    algorithm, aggregator = fed_avg.build(training, optimizer), mean.build()
    state = init(algorithm, aggregator, toy.params(), DATA)
    step = jax.jit(functools.partial(run_round, algorithm, aggregator))
    losses = []
    for _ in range(25):
        state, metrics = step(state, DATA, KEY)
        losses.append(float(metrics["loss"].sum() / metrics["count"].sum()))
    assert losses[-1] < 0.8 * losses[0]


def test_one_client_that_keeps_its_optimizer_is_trained_as_without_rounds():
    data = jax.tree.map(lambda leaf: leaf[:1], DATA)
    one = jax.tree.map(lambda leaf: leaf[0], DATA)
    training = LocalTrainer(toy.grad_fn(), optax.adam(0.05), 2, batch_size=0)
    algorithm, aggregator = (
        fed_avg.build(training, optax.sgd(1.0), keep_optimizer=True),
        mean.build(),
    )
    state = init(algorithm, aggregator, toy.params(), data)
    for _ in range(3):
        state, _ = run_round(algorithm, aggregator, state, data, KEY)
    params = toy.params()
    memory = training.optimizer.init(params)
    for _ in range(3 * 2):  # rounds of epochs of a step with all examples
        gradient, _ = training.grad_fn(params, one, KEY)
        updates, memory = training.optimizer.update(gradient, memory)
        params = optax.apply_updates(params, updates)
    toy.assert_close(state.server.params, params, rtol=1e-4)
    forgetful = fed_avg.build(training, optax.sgd(1.0))
    other = init(forgetful, aggregator, toy.params(), data)
    for _ in range(3):
        other, _ = run_round(forgetful, aggregator, other, data, KEY)
    assert abs(other.server.params["w"] - params["w"]).max() > 1e-3
