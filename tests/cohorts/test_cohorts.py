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
from fedjax_med.cohorts import everyone, fixed, uniform, weighted
from fedjax_med.core import client_map
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch, choose
from fedjax_med.errors import UserError

KEY = jax.random.key(2)
SIZES = (5, 9, 2, 7, 6)
TRAINING = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 1, 4)
ALGORITHM = fed_avg.build(TRAINING, optax.sgd(1.0))


def counting():
    """FedAvg whose clients remember in how many rounds they took part."""

    def client_update(server, client, examples, number, key):
        return ALGORITHM.client_update(server, (), examples, number, key)._replace(state=client + 1)

    return ALGORITHM._replace(
        init=lambda params: (ALGORITHM.init(params)[0], jnp.int32(0)), client_update=client_update
    )


def run(cohort, number=3, map_clients=toy.MAP_CLIENTS, algorithm=ALGORITHM):
    data, aggregator = toy.federation(SIZES), mean.build()
    state = Process(algorithm, aggregator, cohort).init(toy.params(), data)
    step = jax.jit(functools.partial(Process(algorithm, aggregator).round, client_map=map_clients))
    seen, places = [], None
    for _ in range(number):
        taking_part = data
        if cohort is not None:
            chosen = choose(cohort, KEY, state.round, jnp.array(SIZES))
            taking_part, places = jax.tree.map(lambda leaf: leaf[chosen], data), (chosen,)  # noqa: B023
        state, metrics = step(state, RoundBatch(taking_part, places), KEY)
        seen.append(metrics["client"].tolist())
    return state, seen, metrics


def test_everyone_is_what_no_cohort_is():
    expected, _, _ = run(None)
    for cohort in (everyone.build(5), uniform.build(5, size=5), weighted.build(5, size=5)):
        toy.assert_close(run(cohort)[0], expected)


def test_a_fixed_cohort_is_a_federation_of_its_clients():
    state, seen, metrics = run(fixed.build(5, clients=(1, 3)))
    assert seen == [[1, 3]] * 3
    assert metrics["weight"].tolist() == [9, 7]
    data, ids = toy.federation(SIZES), jnp.array([1, 3], jnp.int32)
    small = jax.tree.map(lambda leaf: leaf[ids], data)
    expected = Process(ALGORITHM, mean.build()).init(toy.params(), small)
    process, batch = Process(ALGORITHM, mean.build()), RoundBatch(small, ids=ids)
    for _ in range(3):
        expected, _ = process.round(expected, batch, KEY)
    toy.assert_close(state.server, expected.server)


@pytest.mark.parametrize("strategy", client_map.CLIENT_MAPS)
def test_only_who_takes_part_moves_on(strategy):
    cohort = uniform.build(5, size=2)
    state, seen, _ = run(cohort, 6, client_map.CLIENT_MAPS[strategy], counting())
    times = np.bincount(np.concatenate(seen), minlength=5)
    assert state.clients.tolist() == times.tolist()
    assert len({tuple(one) for one in seen}) > 1  # each round draws anew


def test_uniform_takes_all_alike_and_weighted_by_their_examples():
    keys = jax.random.split(KEY, 20000)
    sizes = jnp.array([1, 2, 3, 4, 0])
    shares = {}
    for name, cohort in (
        ("uniform", uniform.build(5, size=1)),
        ("weighted", weighted.build(5, size=1)),
        ("pairs", weighted.build(5, size=2)),
    ):
        chosen = np.asarray(jax.vmap(lambda key, cohort=cohort: cohort(key, sizes))(keys))
        shares[name] = np.bincount(chosen.ravel(), minlength=5) / len(keys)
    np.testing.assert_allclose(shares["uniform"], 0.2, atol=0.015)
    np.testing.assert_allclose(shares["weighted"], [0.1, 0.2, 0.3, 0.4, 0.0], atol=0.015)
    # Drawn one after the other: P(i first) + sum over j of P(j first) * p_i / (1 - p_j).
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    second = [sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i) for i in range(5)]
    np.testing.assert_allclose(shares["pairs"], p + second, atol=0.015)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (uniform.build, {"size": 0}, "1 <= size <= 5 clients, got 0"),
        (weighted.build, {"size": 6}, "1 <= size <= 5 clients, got 6"),
        (fixed.build, {"clients": (5,)}, "among 0 to 4"),
        (fixed.build, {"clients": (1, 1)}, "different clients"),
        (fixed.build, {"clients": ()}, "different clients"),
    ],
)
def test_impossible_cohorts_are_refused(build, options, message):
    with pytest.raises(UserError, match=message):
        build(5, **options)


@pytest.mark.parametrize("module", [everyone, fixed, uniform, weighted])
@pytest.mark.parametrize("number", [4, 6])
def test_a_cohort_of_another_federation_is_refused(module, number):
    cohort = module.build(number)
    process = Process(ALGORITHM, mean.build(), cohort)
    with pytest.raises(UserError, match=rf"was built for {number} clients, and there are 5"):
        process.init(toy.params(), toy.federation(SIZES))
