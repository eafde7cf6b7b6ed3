"""FedAvg with other optimizers on the server: FedAvgM, FedAdam, FedYogi, FedAdagrad, optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med import algorithms
from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import optimizer_step
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, resolve
from fedjax_med.experiment.config import Spec
from fedjax_med.experiment.config_file import read

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
    state = Process(algorithm, aggregator).init(toy.params(), DATA)
    history = []
    for _ in range(number):
        state, _ = Process(spied, aggregator).round(state, DATA, KEY)
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


# The pseudo-gradients of two coordinates in three rounds, and where Algorithm 2 of Reddi et al.
# (ICLR 2021) brings the coordinates from 0, computed by hand: learning rate 0.1, b1 0.5, b2 0.75,
# tau 0.1, so v starts at 0.01. For Adam in the first round m = 0.5 * 0.3 = 0.15, v = 0.75 * 0.01 +
# 0.25 * 0.09 = 0.03, and the step is 0.1 * 0.15 / (0.1732051 + 0.1) = 0.0549038.
GIVEN = [(0.3, 0.01), (-0.2, 0.0), (0.1, 0.4)]
BY_HAND = {
    "fed_adagrad": (
        {"b1": 0.5},
        [(-0.0360380, -0.0024938), (-0.0307655, -0.0037407), (-0.0384610, -0.0430142)],
    ),
    "fed_adam": (
        {"b1": 0.5, "b2": 0.75},
        [(-0.0549038, -0.0026774), (-0.0459841, -0.0041050), (-0.0601921, -0.0689582)],
    ),
    "fed_yogi": (
        {"b1": 0.5, "b2": 0.75},
        [(-0.0535184, -0.0025016), (-0.0453526, -0.0037523), (-0.0578526, -0.0659528)],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_server_optimizer_of_reddi_et_al_takes_the_steps_computed_by_hand(name):
    options, expected = BY_HAND[name]
    spec = Spec(name, {"learning_rate": 0.1, "tau": 0.1, **options})
    optimizer = components.build("optax", spec)
    params = {"w": jnp.zeros(2), "private": None}  # a leaf that stays at the client
    state = optimizer.init(params)
    for message, position in zip(GIVEN, expected, strict=True):
        given = {"w": jnp.array(message), "private": None}
        params, state = optimizer_step(optimizer, given, state, params)
        np.testing.assert_allclose(params["w"], position, rtol=0, atol=1e-6)


def test_first_moment_of_fed_adagrad_is_the_change_itself_by_default():
    optimizer = algorithms.fed_adagrad(0.04)
    message = {"w": jnp.array([0.1, 0.001])}
    step, _ = optimizer.update(message, optimizer.init(message))
    np.testing.assert_allclose(step["w"], [-0.0396020, -0.0165685], atol=1e-6)


@pytest.mark.parametrize("name", BY_HAND)
def test_server_optimizer_refuses_to_divide_by_nothing(name):
    with pytest.raises(UserError, match=f"{name} to have tau > 0, got tau=0.0"):
        components.build("optax", Spec(name, {"learning_rate": 0.1, "tau": 0.0}))


def test_adagrad_of_optax_is_its_recursion():
    optimizer = optax.adagrad(0.1, initial_accumulator_value=0.01, eps=1e-3)
    messages, history = run(optimizer)
    params, total = weights(toy.params()), 0.01
    for message, actual in zip(messages, history, strict=True):
        total = total + weights(message) ** 2
        params = params - 0.1 * weights(message) / np.sqrt(total + 1e-3)
        np.testing.assert_allclose(actual["w"], params, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_adam_and_yogi_of_optax_are_their_recursions(name):
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
    experiment = resolve.complete(read(f"configs/lesions.py:{name}"))
    optimizer = components.build("optax", experiment.server_optimizer)
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.05))
    algorithm, aggregator = fed_avg.build(training, optimizer), mean.build()
    state = Process(algorithm, aggregator).init(toy.params(), DATA)
    step = jax.jit(Process(algorithm, aggregator).round)
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
    state = Process(algorithm, aggregator).init(toy.params(), data)
    for _ in range(3):
        state, _ = Process(algorithm, aggregator).round(state, data, KEY)
    params = toy.params()
    memory = training.optimizer.init(params)
    for _ in range(3 * 2):  # rounds of epochs of a step with all examples
        gradient, _ = training.grad_fn(params, one, KEY)
        updates, memory = training.optimizer.update(gradient, memory)
        params = optax.apply_updates(params, updates)
    toy.assert_close(state.server.params, params, rtol=1e-4)
    forgetful = fed_avg.build(training, optax.sgd(1.0))
    other = Process(forgetful, aggregator).init(toy.params(), data)
    for _ in range(3):
        other, _ = Process(forgetful, aggregator).round(other, data, KEY)
    assert abs(other.server.params["w"] - params["w"]).max() > 1e-3
