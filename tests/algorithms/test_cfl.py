"""Clustered federated learning (Sattler, Müller, Samek, TNNLS 2021)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean, median
from fedjax_med.algorithms import cfl
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import ClientOutput
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Spec

KEY = jax.random.key(4)
TRAINING = LocalTrainer(toy.grad_fn(), optax.sgd(0.2), 2, 8)
PERMUTED = (1, 3, 4)  # clients whose labels mean something else
RULE = {"mean_norm": 0.25, "max_norm": 0.75}


def agreeing():
    return toy.federation((16, 12, 14, 16, 10, 16), seed=1)


def planted():
    data = agreeing()
    other = jnp.isin(jnp.arange(6), jnp.asarray(PERMUTED))[:, None]
    label = jnp.where(other & data.mask, (data.label + 1) % toy.CLASSES, data.label)
    return data._replace(label=label)


@functools.cache
def rounds(number, name="cfl", data=planted, aggregator=mean.build, **options):
    """All states and the last metrics."""
    algorithm = components.build("algorithms", Spec(name, options), TRAINING, optax.sgd(1.0))
    aggregator, data = aggregator(), data()
    states = [Process(algorithm, aggregator).init(toy.params(), data)]
    step = jax.jit(Process(algorithm, aggregator).round)
    for _ in range(number):
        state, metrics = step(states[-1], data, KEY)
        states.append(state)
    return states, metrics


def built(**options):
    return cfl.build(TRAINING, optax.sgd(1.0), **options)


def told(messages, weight=None, group=None):
    """What the server gets from clients that send `messages` [S, 2]."""
    messages = jnp.asarray(messages, jnp.float32)
    number = messages.shape[0]
    weight = jnp.ones(number) if weight is None else jnp.asarray(weight, jnp.float32)
    group = jnp.zeros(number, jnp.int32) if group is None else jnp.asarray(group, jnp.int32)
    return ClientOutput({"w": messages}, group, weight, {}, group)


def received(results, server=None, **options):
    algorithm = built(**options)
    if server is None:
        server = algorithm.init({"w": jnp.zeros(2)})[0]
    server, groups = jax.jit(algorithm.process_updates)(server, results)
    return server, groups.tolist()


OPPOSED = [[2.0, 0.1], [-2.0, 0.0], [2.0, 0.0], [-2.0, -0.1], [1.9, 0.0]]
BALANCED = [1.0, 1.5, 1.0, 1.5, 1.0]


def test_cluster_that_stands_still_while_clients_pull_is_divided_by_direction():
    server, groups = received(told(OPPOSED, BALANCED))
    assert groups == [1, 0, 1, 0, 1] or groups == [0, 1, 0, 1, 0]
    assert int(server.number) == 2
    assert server.origin.tolist() == [0, 0, 0]


def test_half_with_more_examples_keeps_the_place():
    for weight, expected in (
        ([1, 2, 1, 2, 1], [1, 0, 1, 0, 1]),
        ([2, 2, 2, 2, 2], [0, 1, 0, 1, 0]),
    ):
        assert received(told(OPPOSED, weight), mean_norm=0.9)[1] == expected


@pytest.mark.parametrize(
    "options",
    [{"mean_norm": 0.01}, {"max_norm": 2.1}, {"after": 1}, {"clusters": 1}],
    ids=["moves", "nobody pulls", "too early", "no place"],
)
def test_cluster_is_not_divided_if_one_condition_fails(options):
    _, groups = received(told(OPPOSED, BALANCED), **options)
    assert groups == [0] * 5


def test_first_division_waits():
    states, _ = rounds(3, clusters=2, mean_norm=9.0, max_norm=0.01, after=2)
    assert [int(state.server.number) for state in states] == [1, 1, 1, 2]


def test_norm_of_the_mean_is_weighted_by_examples():
    results = told([[2.0, 0.0], [2.0, 0.0], [-2.0, 0.0]], [1.0, 1.0, 2.0])
    assert received(results, mean_norm=0.1)[1] == [0, 0, 1]
    assert received(results._replace(num_examples=jnp.ones(3)), mean_norm=0.1)[1] == [0, 0, 0]


def test_two_clients_are_not_divided():
    assert received(told([[2.0, 0.0], [-2.0, 0.0]]))[1] == [0, 0]


def test_client_of_weight_zero_neither_counts_nor_moves():
    results = told([*OPPOSED[:2], [0.0, 0.0], *OPPOSED[3:]], [1.5, 1.5, 0.0, 1.5, 1.5])
    server, groups = received(results)
    assert groups == [0, 1, 0, 1, 0]
    # Two that count are too few, whoever else is there.
    assert received(told(OPPOSED, [1, 1, 0, 0, 0]))[1] == [0] * 5
    # Nor does its message make a cluster pull.
    weak = told([[0.1, 0.0], [-0.1, 0.0], [0.1, 0.0], [9.0, 9.0]], [1, 2, 1, 0])
    assert received(weak)[1] == [0] * 4
    assert server.moves.tolist() == [True, False, False]


def test_only_the_cluster_that_disagrees_is_divided_and_gets_the_next_place():
    calm = [[0.1, 0.0], [0.1, 0.0], [0.1, 0.0]]
    results = told([*calm, *OPPOSED], [1, 1, 1, *BALANCED], [0, 0, 0, 1, 1, 1, 1, 1])
    server = built().init({"w": jnp.zeros(2)})[0]._replace(number=jnp.int32(2))
    server, groups = received(results, server)
    assert groups == [0, 0, 0, 1, 2, 1, 2, 1] or groups == [0, 0, 0, 2, 1, 2, 1, 2]
    assert server.origin.tolist() == [0, 1, 1]
    assert int(server.number) == 3
    # Where no place is left, nothing happens.
    full = built().init({"w": jnp.zeros(2)})[0]._replace(number=jnp.int32(3))
    assert received(results, full)[1] == results.cluster.tolist()


def test_both_halves_start_from_the_parent_after_its_step():
    states, _ = rounds(12, **RULE)
    number = [int(state.server.number) for state in states]
    division = number.index(2)
    server = states[division].server
    for place in (1, 2):  # a place without a cluster follows the first one
        for leaf in jax.tree.leaves(server.params):
            np.testing.assert_array_equal(leaf[place], leaf[0])
    assert not np.array_equal(server.params["w"][0], states[division - 1].server.params["w"][0])
    after = states[division + 1].server.params["w"]
    assert not np.array_equal(after[0], after[1])


def test_until_the_division_it_is_fed_avg_bit_for_bit():
    for options in ({"clusters": 1}, {"max_norm": 1e9}):
        for one, other in zip(rounds(3, **options)[0], rounds(3, "fed_avg")[0], strict=True):
            first = jax.tree.map(lambda leaf: leaf[0], one.server.params)
            toy.assert_same_bits(first, other.server.params)


@pytest.mark.parametrize("aggregator", [mean.build, median.build])
def test_planted_clusters_are_found_and_fit_better_than_one_model(aggregator):
    states, metrics = rounds(12, aggregator=aggregator, **RULE)
    group = np.asarray(states[-1].clients)
    other = np.isin(np.arange(6), PERMUTED)
    assert len(set(group[other])) == len(set(group[~other])) == 1
    assert group[other][0] != group[~other][0]
    _, plain = rounds(12, "fed_avg", aggregator=aggregator)
    loss, expected = (float(one["loss"].sum() / one["count"].sum()) for one in (metrics, plain))
    assert loss < 0.8 * expected


def test_clients_that_agree_stay_together():
    states, _ = rounds(12, data=agreeing, **RULE)
    assert int(states[-1].server.number) == 1
    assert states[-1].clients.tolist() == [0] * 6


def test_client_uses_and_is_sent_its_clusters_model():
    algorithm = built()
    server = algorithm.init({"w": jnp.zeros(2)})[0]
    server = server._replace(params={"w": jnp.arange(6.0).reshape(3, 2)})
    for of in (algorithm.personal_params, algorithm.download):
        assert of(server, jnp.int32(2))["w"].tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters >= 1"),
        ({"after": -1}, "after >= 0"),
        ({"mean_norm": 0.0}, "mean_norm > 0"),
        ({"max_norm": float("nan")}, "max_norm > 0"),
    ],
)
def test_option_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        built(**options)
