"""The moving average of the global model: it is evaluated, and training does not know of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import _ema, fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.client.optimizers import sgd_step_weight
from fedjax_med.core.process import Process
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Spec

DATA = toy.federation((6, 3, 4))


def history(algorithm, rounds=3):
    """The states of the server, after each round."""
    aggregator = mean.build()
    state = Process(algorithm, aggregator).init(toy.params(), DATA)
    states = []
    for _ in range(rounds):
        state, _ = Process(algorithm, aggregator).round(state, DATA, jax.random.key(2))
        states.append(state.server)
    return states


def algorithm():
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1))
    return fed_avg.build(training, optax.sgd(1.0, momentum=0.5))


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_average_is_that_of_the_models_of_an_unaveraged_run(decay):
    plain = history(algorithm())
    averaged = history(_ema.with_ema(algorithm(), decay))
    toy.assert_same_bits([state.inner for state in averaged], plain)
    total, weight = np.zeros_like(plain[0].params["w"]), 0.0
    for state, model in zip(averaged, plain, strict=True):
        total = decay * total + (1 - decay) * model.params["w"]
        weight = decay * weight + (1 - decay)
        np.testing.assert_allclose(state.params["w"], total / weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(components.names("algorithms")) - {"cfl"}))
def test_any_algorithm_keeps_the_shapes_of_its_state_under_the_average(name):
    known = {"features": toy.features(), "step_weight": sgd_step_weight()}
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), **known)
    options = {"local": ("b",)} if name in ("fed_bn", "fed_per", "fed_rep") else {}
    plain = components.build("algorithms", Spec(name, options), training, optax.sgd(1.0))
    averaged, aggregator = _ema.with_ema(plain, 0.5), mean.build()
    before = Process(averaged, aggregator).init(toy.params(), DATA)
    step = Process(averaged, aggregator).round
    after, _ = jax.eval_shape(step, before, DATA, jax.random.key(2))
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
