"""FedProx: FedAvg with a pull towards the global model."""

import functools

import jax
import numpy as np
import optax
import pytest
import quadratics
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg, fed_prox
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, resolve
from fedjax_med.experiment.config_file import read

KEY = jax.random.key(5)
TOY = LocalTrainer(toy.grad_fn(), optax.sgd(0.1, momentum=0.5), 2, 4)
SIZES, CURVATURES, TARGETS = (1, 3), (1.0, 0.25), (4, -2)
RATE, STEPS = 0.5, 8


def two_rounds(algorithm):
    data, aggregator = toy.federation((9, 5, 0)), mean.build()
    state = Process(algorithm, aggregator).init(toy.params(), data)
    step = jax.jit(Process(algorithm, aggregator).round)
    for _ in range(2):
        state, metrics = step(state, data, KEY)
    return state, metrics


def on_quadratics(number, **options):
    training = LocalTrainer(quadratics.grad_fn, optax.sgd(RATE), STEPS, 0)
    algorithm = fed_prox.build(training, optax.sgd(1.0), **options)
    return quadratics.rounds(algorithm, quadratics.clients(SIZES, CURVATURES, TARGETS), number)[0]


def test_fed_prox_with_mu_zero_is_fed_avg_bit_for_bit():
    server = optax.sgd(1.0)
    expected = two_rounds(fed_avg.build(TOY, server))
    toy.assert_same_bits(two_rounds(fed_prox.build(TOY, server, mu=0.0)), expected)
    held = two_rounds(fed_prox.build(TOY, server, mu=0.1))[0].server.params["w"]
    assert abs(held - expected[0].server.params["w"]).max() > 1e-5


def test_fed_prox_is_its_recursion_over_two_rounds():
    mu, model = 0.7, 1.5
    for state in on_quadratics(2, mu=mu):
        ends = []
        for curvature, target in zip(CURVATURES, TARGETS, strict=True):
            y = model
            for _ in range(STEPS):
                y -= RATE * (curvature * (y - target) + mu * (y - model))
            ends.append(y)
        model = np.average(ends, weights=SIZES)
        np.testing.assert_allclose(quadratics.w(state), model, rtol=1e-5)


def test_more_mu_keeps_each_client_nearer_to_the_global_model():
    data = toy.federation((9, 5))
    lengths = []
    for mu in (0.0, 0.5, 2.0):
        algorithm = fed_prox.build(TOY._replace(epochs=6), optax.sgd(1.0), mu=mu)
        server, client = algorithm.init(toy.params())
        update = jax.vmap(functools.partial(algorithm.client_update, server, client))
        result = jax.jit(update)(data, np.zeros(2, np.int32), jax.random.split(KEY, 2))
        lengths.append(np.asarray(jax.vmap(optax.tree.norm)(result.update)))
    assert (lengths[1] < 0.9 * lengths[0]).all()
    assert (lengths[2] < 0.9 * lengths[1]).all()


def test_proximal_term_brings_the_rest_point_nearer_to_the_optimum():
    # Clients of unlike curvature: FedAvg rests where the further-gone client pulls it.
    best = quadratics.optimum(SIZES, CURVATURES, TARGETS)
    free, held = (abs(quadratics.w(on_quadratics(60, mu=mu)[-1]) - best) for mu in (0.0, 1.0))
    biased = quadratics.fed_avg_rests(SIZES, CURVATURES, TARGETS, STEPS, RATE)
    assert free == pytest.approx(abs(biased - best), rel=1e-3)
    assert held < 0.6 * free


def test_negative_mu_is_refused():
    with pytest.raises(UserError, match="expected algorithm fed_prox to have mu >= 0, got mu=-1"):
        fed_prox.build(TOY, optax.sgd(1.0), mu=-1)


def test_config_names_it_and_its_partition():
    experiment = resolve.complete(read("configs/lesions.py:fed_prox"))
    assert (experiment.name, experiment.algorithm.name) == ("fed_prox", "fed_prox")
    assert experiment.partition.name == "dirichlet"
    components.build("algorithms", experiment.algorithm, TOY, optax.sgd(1.0))
