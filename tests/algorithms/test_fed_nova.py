"""FedNova: clients count by their examples, not by how many steps they take."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratics
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg, fed_nova
from fedjax_med.client import optimizers
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.process import Process
from fedjax_med.execution import backend
from fedjax_med.experiment import build, resolve
from fedjax_med.experiment.config import Client, Experiment, Spec
from fedjax_med.experiment.config_file import read

KEY = jax.random.key(5)
TOY = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 2, 4, step_weight=optimizers.sgd_step_weight())
# Batches of one example: 1, 6 and 2 steps in an epoch. With equal curvatures the number of steps is
# all that biases FedAvg.
SIZES, TARGETS = (1, 6, 2), (4, -2, 1)
SAME, RATE = (0.1, 0.1, 0.1), 0.05


def two_rounds(algorithm, data):
    aggregator = mean.build()
    state = Process(algorithm, aggregator).init(toy.params(), data)
    step = jax.jit(Process(algorithm, aggregator).round)
    for _ in range(2):
        state, _ = step(state, data, KEY)
    return state.server.params


def on_quadratics(module, number, optimizer, curvatures=SAME, **options):
    weight = optimizers.sgd_step_weight(**options)
    training = LocalTrainer(quadratics.grad_fn, optimizer, 1, 1, step_weight=weight)
    algorithm = module.build(training, optax.sgd(1.0))
    return quadratics.rounds(algorithm, quadratics.clients(SIZES, curvatures, TARGETS), number)[0]


def test_fed_nova_with_equal_steps_is_fed_avg():
    data = toy.federation((12, 9, 10))  # three steps each
    expected = two_rounds(fed_avg.build(TOY, optax.sgd(1.0)), data)
    toy.assert_close(two_rounds(fed_nova.build(TOY, optax.sgd(1.0)), data), expected)
    uneven = toy.federation((12, 3, 10))
    expected = two_rounds(fed_avg.build(TOY, optax.sgd(1.0)), uneven)
    actual = two_rounds(fed_nova.build(TOY, optax.sgd(1.0)), uneven)
    assert abs(actual["w"] - expected["w"]).max() > 1e-4


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("nesterov", [False, True])
def test_fed_nova_is_its_recursion_over_two_rounds(momentum, nesterov):
    # Wang et al. (NeurIPS 2020), equation 7: d_i = G_i a_i / |a_i|, where a_i counts how often each
    # gradient goes into the difference.
    curvatures, x = (1.0, 0.25, 0.5), 1.5
    optimizer = optax.sgd(RATE, momentum=momentum or None, nesterov=nesterov)
    known = {"momentum": momentum, "nesterov": nesterov}
    for state in on_quadratics(fed_nova, 2, optimizer, curvatures, **known):
        directions, efforts = [], []
        for size, curvature, target in zip(SIZES, curvatures, TARGETS, strict=True):
            gradients, y, velocity = [], x, 0.0
            for _ in range(size):
                gradients.append(curvature * (y - target))
                velocity = momentum * velocity + gradients[-1]
                y -= RATE * (gradients[-1] + momentum * velocity if nesterov else velocity)
            a = [sum(momentum**j for j in range(size - step)) for step in range(size)]
            if nesterov:
                a = [1 + momentum * times for times in a]
            directions.append(np.dot(gradients, a) / sum(a))
            efforts.append(sum(a))
        effort = np.average(efforts, weights=SIZES)
        x = x - RATE * effort * np.average(directions, weights=SIZES)
        np.testing.assert_allclose(quadratics.w(state), x, rtol=1e-5)


def test_fed_nova_is_unbiased_by_unequal_steps_where_fed_avg_is_not():
    best = quadratics.optimum(SIZES, SAME, TARGETS)
    sgd = optax.sgd(RATE)
    biased = quadratics.w(on_quadratics(fed_avg, 400, sgd)[-1])
    expected = quadratics.fed_avg_rests(SIZES, SAME, TARGETS, SIZES, RATE)
    assert biased == pytest.approx(expected, abs=1e-3)
    assert abs(biased - best) > 0.4
    # What is left is of the order of rate * curvature * steps: the drift along the way.
    assert abs(quadratics.w(on_quadratics(fed_nova, 400, sgd)[-1]) - best) < 0.03


def test_momentum_is_normalised_by_its_series():
    best = quadratics.optimum(SIZES, SAME, TARGETS)
    sgd = optax.sgd(RATE, momentum=0.8)
    right, wrong = (
        abs(quadratics.w(on_quadratics(fed_nova, 400, sgd, momentum=momentum)[-1]) - best)
        for momentum in (0.8, 0.0)
    )
    assert right < 0.1
    assert wrong > 3 * right


def test_message_of_a_client_without_steps_is_zero():
    heavy = TOY._replace(step_weight=optimizers.sgd_step_weight(0.9))
    algorithm = fed_nova.build(heavy, optax.sgd(1.0))
    server, client = algorithm.init(toy.params())
    data = jax.tree.map(lambda leaf: leaf[0], toy.federation((0, 5)))
    result = jax.jit(algorithm.client_update)(server, client, data, jnp.int32(0), KEY)
    toy.assert_same_bits(result.update, jax.tree.map(jnp.zeros_like, result.update))
    assert result.num_examples == 0


@pytest.mark.parametrize("nesterov", [False, True])
def test_step_weight_is_that_of_the_clients_optimizer(nesterov):
    options = {"learning_rate": 0.1, "momentum": 0.5, "nesterov": nesterov}
    given = Experiment(client=Client(optimizer=Spec("sgd", options)))
    plan = toy.planned(resolve.complete(given))
    trainer = build.build_trainer(plan.trained, plan.model, np.ones(3), backend.Workload(0, False))
    # Two steps: the first gradient is in both, in the second by half.
    expected = 1 + 0.5 * 1 + 1 + 0.5 * 1.5 if nesterov else 1 + 1.5
    assert float(trainer.step_weight(jnp.float32(2))) == expected


def test_config_trains_with_momentum():
    experiment = resolve.complete(read("configs/lesions.py:fed_nova"))
    assert (experiment.name, experiment.algorithm.name) == ("fed_nova", "fed_nova")
    assert experiment.partition.name == "dirichlet"
    assert experiment.client.optimizer.name == "sgd"
    assert experiment.client.optimizer.options["momentum"] > 0
