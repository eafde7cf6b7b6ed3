"""SCAFFOLD: control variates that take the drift out of the clients' steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import quadratics
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg, scaffold
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.faults import Faults, Participation
from fedjax_med.core.process import Process
from fedjax_med.experiment import components, resolve
from fedjax_med.experiment.config_file import read

KEY = jax.random.key(5)
TOY = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 2, 4)
SIZES, CURVATURES, TARGETS = (1, 3, 2), (1.0, 0.25, 0.5), (4, -2, 1)
DATA = quadratics.clients(SIZES, CURVATURES, TARGETS)
RATE, STEPS = 0.5, 3
QUADRATIC = LocalTrainer(quadratics.grad_fn, optax.sgd(RATE), STEPS, 0)


def on_quadratics(number, training=QUADRATIC, **round_options):
    algorithm = scaffold.build(training, optax.sgd(1.0))
    return quadratics.rounds(algorithm, DATA, number, **round_options)


def toy_rounds(algorithm, number, data):
    aggregator = mean.build()
    state = Process(algorithm, aggregator).init(toy.params(), data)
    step = jax.jit(Process(algorithm, aggregator).round)
    states = []
    for _ in range(number):
        state, _ = step(state, data, KEY)
        states.append(state)
    return states


def mean_of_those_heard(state):
    heard = np.asarray(state.clients.rounds) > 0
    return np.average(
        np.asarray(state.clients.control["w"])[heard, 0], weights=np.array(SIZES)[heard]
    )


def test_first_round_is_fed_avgs_bit_for_bit_and_the_second_is_not():
    training = TOY._replace(optimizer=optax.sgd(0.1, momentum=0.5))
    built = [module.build(training, optax.sgd(1.0)) for module in (fed_avg, scaffold)]
    data = toy.federation((9, 5, 0))
    plain, corrected = (toy_rounds(algorithm, 2, data) for algorithm in built)
    toy.assert_same_bits(corrected[0].server.params, plain[0].server.params)
    assert abs(corrected[1].server.params["w"] - plain[1].server.params["w"]).max() > 1e-4


def test_scaffold_is_its_recursion_over_three_rounds():
    # Karimireddy et al. (ICML 2020), algorithm 1, option II, with all clients.
    x, c, controls = 1.5, 0.0, np.zeros(3)
    for state in on_quadratics(3)[0]:
        ends, new = np.zeros(3), np.zeros(3)
        for k in range(3):
            y = x
            for _ in range(STEPS):
                y -= RATE * (CURVATURES[k] * (y - TARGETS[k]) + c - controls[k])
            ends[k] = y
            new[k] = controls[k] - c + (x - y) / (STEPS * RATE)
        x = x + np.average(ends - x, weights=SIZES)
        c = c + np.average(new - controls, weights=SIZES)
        controls = new
        np.testing.assert_allclose(quadratics.w(state), x, rtol=1e-5)
        np.testing.assert_allclose(state.server.control["w"], [c], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.clients.control["w"][:, 0], controls, rtol=1e-4)


def test_control_is_option_two_of_the_paper_on_batches():
    data = jax.tree.map(lambda leaf: leaf[0], toy.federation((10,)))
    algorithm = scaffold.build(TOY, optax.sgd(1.0))
    server, client = algorithm.init(toy.params())
    random = [
        jax.tree.map(lambda leaf, k=k: 0.1 * jax.random.normal(k, leaf.shape), toy.params())
        for k in jax.random.split(KEY)
    ]
    server = server._replace(control=random[0])
    client = scaffold.ClientState(random[1], jnp.int32(4))
    result = jax.jit(algorithm.client_update)(server, client, data, jnp.int32(0), KEY)
    steps = 2 * 3  # epochs of ten examples in batches of four
    assert result.metrics["steps"] == steps
    expected = jax.tree.map(
        lambda c, own, delta: own - c + delta / (steps * 0.1), *random, result.update[0]
    )
    toy.assert_close(result.state.control, expected, rtol=1e-3, atol=1e-5)
    change = jax.tree.map(jnp.subtract, expected, random[1])
    toy.assert_close(result.update[1], change, rtol=1e-3, atol=1e-5)
    assert result.state.rounds == 5


def test_scaffold_reaches_the_optimum_where_fed_avg_stalls():
    best = quadratics.optimum(SIZES, CURVATURES, TARGETS)
    stalled = quadratics.rounds(fed_avg.build(QUADRATIC, optax.sgd(1.0)), DATA, 60)[0][-1]
    biased = quadratics.fed_avg_rests(SIZES, CURVATURES, TARGETS, STEPS, RATE)
    assert quadratics.w(stalled) == pytest.approx(biased, abs=1e-4)
    assert abs(biased - best) > 0.3
    assert quadratics.w(on_quadratics(60)[0][-1]) == pytest.approx(best, abs=1e-4)


def test_scaffold_reaches_the_optimum_of_a_softmax_problem_of_unlike_clients():
    data = toy.federation((12, 12, 12))
    order = jnp.argsort(data.label.ravel())  # each client has mostly one class
    data = jax.tree.map(lambda leaf: leaf.reshape(36, *leaf.shape[2:])[order], data)
    pooled = jax.tree.map(lambda leaf: leaf[None], data)
    split = jax.tree.map(lambda leaf: leaf.reshape(3, 12, *leaf.shape[1:]), data)

    def final(module, data, epochs):
        training = LocalTrainer(decaying(toy.grad_fn()), optax.sgd(0.05), epochs, 0)
        algorithm, aggregator = module.build(training, optax.sgd(1.0)), mean.build()
        step = jax.jit(Process(algorithm, aggregator).round)
        state = Process(algorithm, aggregator).init(toy.params(), data)
        for _ in range(150):
            state, _ = step(state, data, KEY)
        return np.asarray(state.server.params["w"])

    best = final(fed_avg, pooled, 10)
    drifted, corrected = (abs(final(m, split, 10) - best).max() for m in (fed_avg, scaffold))
    assert drifted > 0.01
    assert corrected < 0.05 * drifted


def decaying(grad_fn):
    """With a penalty, so that the optimum is one point."""

    def gradient(params, batch, key):
        free, metrics = grad_fn(params, batch, key)
        return jax.tree.map(lambda g, p: g + 0.3 * p, free, params), metrics

    return gradient


def test_control_estimates_the_gradient_whatever_the_schedule():
    training = QUADRATIC._replace(schedule=lambda round: 1 / (1.0 + round))
    state = on_quadratics(80, training)[0][-1]
    gradients = np.array(CURVATURES) * (quadratics.w(state) - np.array(TARGETS))
    np.testing.assert_allclose(state.clients.control["w"][:, 0], gradients, atol=0.01)


def test_servers_control_stays_the_clients_mean_whoever_takes_part():
    places = [[0, 2], [0, 1], [1, 2], [0, 2]]
    for by in ({"places": places}, {"faults": Faults(Participation(participation_rate=0.5))}):
        states, weights = on_quadratics(4, **by)
        for number, state in enumerate(states):
            there = np.arange(3) if "faults" in by else np.array(places[number])
            absent = np.setdiff1d(np.arange(3), there[np.asarray(weights[number]) > 0])
            before = states[number - 1] if number else None
            old = np.asarray(before.clients.control["w"]) if number else np.zeros((3, 1))
            new = np.asarray(state.clients.control["w"])
            np.testing.assert_array_equal(new[absent], old[absent])
            if np.any(np.asarray(state.clients.rounds) > 0):
                expected = mean_of_those_heard(state)
                np.testing.assert_allclose(state.server.control["w"], [expected], rtol=1e-4)
        turnouts = {int((np.asarray(weight) > 0).sum()) for weight in weights}
        assert "places" in by or len(turnouts) > 1


def test_server_moves_its_control_by_the_share_of_those_that_take_part():
    # The factor |S| / N of the paper, here by examples: clients 0 and 2 have 3 of 6.
    before, after = on_quadratics(3, places=[[0, 1], [1, 2], [0, 2]])[0][1:]
    change = np.asarray(after.clients.control["w"] - before.clients.control["w"])[:, 0]
    expected = np.asarray(before.server.control["w"][0]) + (1 * change[0] + 2 * change[2]) / 6
    np.testing.assert_allclose(after.server.control["w"], [expected], rtol=1e-4)
    assert float(after.server.heard.share) == 0.5


def test_client_not_yet_heard_takes_the_servers_control_for_its_own():
    # So its first step is plain, and not pushed by c without c_i.
    algorithm = scaffold.build(QUADRATIC, optax.sgd(1.0))
    state = on_quadratics(1, places=[[0, 1]])[0][-1]
    assert abs(float(state.server.control["w"][0])) > 0.1
    one, client = (jax.tree.map(lambda leaf: leaf[2], tree) for tree in (DATA, state.clients))
    update = jax.jit(algorithm.client_update)
    actual = update(state.server, client, one, jnp.int32(1), KEY).update[0]
    plain = fed_avg.build(QUADRATIC, optax.sgd(1.0))
    expected = jax.jit(plain.client_update)(state.server, (), one, jnp.int32(1), KEY).update
    toy.assert_close(actual, expected)


def test_scaffold_reaches_the_optimum_under_partial_participation():
    best = quadratics.optimum(SIZES, CURVATURES, TARGETS)
    faults = Faults(Participation(participation_rate=0.7))
    algorithm = scaffold.build(QUADRATIC, optax.sgd(0.3))
    state = quadratics.rounds(algorithm, DATA, 200, faults=faults)[0][-1]
    assert quadratics.w(state) == pytest.approx(best, abs=1e-3)


def test_client_without_steps_keeps_its_control():
    algorithm = scaffold.build(TOY, optax.sgd(1.0))
    state = toy_rounds(algorithm, 2, toy.federation((6, 0, 4)))[-1]
    assert state.clients.rounds.tolist() == [2, 0, 2]
    assert not np.any(state.clients.control["w"][1])
    assert np.any(state.clients.control["w"][0])
    assert float(state.server.heard.examples) == 10


def test_download_is_the_model_and_the_control():
    algorithm = scaffold.build(TOY, optax.sgd(1.0))
    server, client = algorithm.init(toy.params())
    sent = algorithm.download(server, client)
    assert jax.tree.structure(sent) == jax.tree.structure((toy.params(), toy.params()))


def test_config_names_it_and_trains_by_plain_sgd():
    experiment = resolve.complete(read("configs/lesions.py:scaffold"))
    assert (experiment.name, experiment.algorithm.name) == ("scaffold", "scaffold")
    assert experiment.partition.name == "dirichlet"
    assert experiment.client.optimizer.name == "sgd"
    assert not experiment.client.optimizer.options.get("momentum")
    components.build("algorithms", experiment.algorithm, TOY, optax.sgd(1.0))
