"""FedDyn: a regulariser by which clients and server agree where the global loss is least."""

import jax
import numpy as np
import optax
import pytest
import quadratics
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg, fed_dyn
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.faults import Faults, Participation
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, resolve
from fedjax_med.experiment.config_file import read

KEY = jax.random.key(5)
TOY = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 2, 4)
SIZES, CURVATURES, TARGETS = (1, 3, 2), (1.0, 0.25, 0.5), (4, -2, 1)
DATA = quadratics.clients(SIZES, CURVATURES, TARGETS)
RATE, STEPS, ALPHA = 0.5, 8, 0.4
QUADRATIC = LocalTrainer(quadratics.grad_fn, optax.sgd(RATE), STEPS, 0)


def on_quadratics(number, alpha=ALPHA, **round_options):
    algorithm = fed_dyn.build(QUADRATIC, optax.sgd(1.0), alpha=alpha)
    return quadratics.rounds(algorithm, DATA, number, **round_options)


def reference(places):
    """Acar et al. (ICLR 2021), algorithm 1, in NumPy; all clients take part in round 0."""
    sizes, theta, h, memory = np.array(SIZES), 1.5, 0.0, np.zeros(3)
    for there in places:
        ends = np.zeros(3)
        for k in there:
            y = theta
            for _ in range(STEPS):
                slope = CURVATURES[k] * (y - TARGETS[k])
                y -= RATE * (slope - memory[k] + ALPHA * (y - theta))
            memory[k] -= ALPHA * (y - theta)
            ends[k] = y
        h -= ALPHA * np.sum(sizes[there] * (ends[there] - theta)) / sizes.sum()
        theta = np.average(ends[there], weights=sizes[there]) - h / ALPHA
        yield theta, h, memory.copy()


def test_fed_dyn_is_its_recursion_over_three_rounds():
    everyone = [np.arange(3)] * 3
    for state, (theta, h, memory) in zip(on_quadratics(3)[0], reference(everyone), strict=True):
        np.testing.assert_allclose(quadratics.w(state), theta, rtol=1e-4)
        np.testing.assert_allclose(state.server.gradient["w"], [h], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.clients.gradient["w"][:, 0], memory, rtol=1e-4)


def test_partial_participation_moves_h_by_its_share():
    # Everyone is heard in the first two rounds, so that the third is the paper's with m clients.
    states = on_quadratics(3, places=[[0, 1], [1, 2], [0, 2]])[0]
    before, after = states[1:]
    change = np.asarray(after.clients.gradient["w"] - before.clients.gradient["w"])[:, 0]
    assert change[1] == 0
    expected = before.server.gradient["w"][0] + (1 * change[0] + 2 * change[2]) / 6
    np.testing.assert_allclose(after.server.gradient["w"], [expected], rtol=1e-4)
    delta = -(1 * change[0] + 2 * change[2]) / 3 / ALPHA
    theta = quadratics.w(before) + delta - float(expected) / ALPHA
    np.testing.assert_allclose(quadratics.w(after), theta, rtol=1e-4)


def test_h_stays_the_mean_of_the_gradients_of_the_clients_heard():
    for by in (
        {"places": [[0, 2], [0, 1], [1, 2]]},
        {"faults": Faults(Participation(participation_rate=0.5))},
    ):
        for state in on_quadratics(3, **by)[0]:
            heard = np.asarray(state.clients.rounds) > 0
            assert not np.any(np.asarray(state.clients.gradient["w"])[~heard])
            if not heard.any():
                continue
            gradients = np.asarray(state.clients.gradient["w"])[heard, 0]
            expected = np.average(gradients, weights=np.array(SIZES)[heard])
            np.testing.assert_allclose(state.server.gradient["w"], [expected], rtol=1e-4)


def test_fed_dyn_reaches_the_optimum_where_fed_avg_stalls():
    best = quadratics.optimum(SIZES, CURVATURES, TARGETS)
    stalled = quadratics.rounds(fed_avg.build(QUADRATIC, optax.sgd(1.0)), DATA, 60)[0][-1]
    biased = quadratics.fed_avg_rests(SIZES, CURVATURES, TARGETS, STEPS, RATE)
    assert quadratics.w(stalled) == pytest.approx(biased, abs=1e-4)
    assert abs(biased - best) > 0.5
    state = on_quadratics(80)[0][-1]
    assert quadratics.w(state) == pytest.approx(best, abs=1e-3)
    gradients = np.array(CURVATURES) * (best - np.array(TARGETS))
    np.testing.assert_allclose(state.clients.gradient["w"][:, 0], gradients, atol=1e-2)


def test_fed_dyn_reaches_the_optimum_under_partial_participation():
    best = quadratics.optimum(SIZES, CURVATURES, TARGETS)
    state = on_quadratics(300, 1.0, faults=Faults(Participation(participation_rate=0.7)))[0][-1]
    assert quadratics.w(state) == pytest.approx(best, abs=1e-2)


def test_round_that_nobody_takes_part_in_moves_nothing():
    algorithm, aggregator = fed_dyn.build(QUADRATIC, optax.sgd(1.0), alpha=ALPHA), mean.build()
    state = on_quadratics(1)[0][-1]
    assert abs(float(state.server.gradient["w"][0])) > 0.1
    faults = Faults(Participation(straggler_rate=1.0))
    process = Process(algorithm, aggregator, faults=faults)
    after, _ = jax.jit(process.round)(state, DATA, KEY)
    toy.assert_same_bits(after.server.params, state.server.params)
    toy.assert_same_bits(after.server.gradient, state.server.gradient)
    toy.assert_same_bits(after.clients, state.clients)


def test_client_without_examples_stays_as_it_is():
    algorithm, aggregator = fed_dyn.build(TOY, optax.sgd(1.0), alpha=0.1), mean.build()
    data = toy.federation((6, 0, 4))
    state = Process(algorithm, aggregator).init(toy.params(), data)
    step = jax.jit(Process(algorithm, aggregator).round)
    for _ in range(2):
        state, _ = step(state, data, KEY)
    assert state.clients.rounds.tolist() == [2, 0, 2]
    assert not np.any(state.clients.gradient["w"][1])
    assert np.any(state.clients.gradient["w"][0])


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_alpha_that_is_not_positive_is_refused(alpha):
    with pytest.raises(UserError, match="expected algorithm fed_dyn to have alpha > 0, got alpha="):
        fed_dyn.build(TOY, optax.sgd(1.0), alpha=alpha)


def test_config_names_it_and_its_partition():
    experiment = resolve.complete(read("configs/lesions.py:fed_dyn"))
    assert (experiment.name, experiment.algorithm.name) == ("fed_dyn", "fed_dyn")
    assert experiment.partition.name == "dirichlet"
    components.build("algorithms", experiment.algorithm, TOY, optax.sgd(1.0))
