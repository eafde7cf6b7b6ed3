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
from fedjax_med.core import aggregation, client_map
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch
from fedjax_med.core.types import Examples
from fedjax_med.execution import bucketing
from fedjax_med.transforms import clip

KEY = jax.random.key(7)
SIZES = (5, 9, 2, 7, 6)


def setup(
    sizes=SIZES, *, batch_size=4, epochs=2, client=None, server=None, aggregator=None, room=None
):
    training = LocalTrainer(
        toy.grad_fn(), client or optax.sgd(0.1, momentum=0.9), epochs, batch_size
    )
    algorithm = fed_avg.build(training, server or optax.sgd(1.0))
    aggregator = aggregator or mean.build()
    data = toy.federation(sizes)
    return algorithm, aggregator, Process(algorithm, aggregator).init(toy.params(), data), data


def rounds(algorithm, aggregator, state, data, number, map_clients=toy.MAP_CLIENTS, ids=None):
    run = jax.jit(functools.partial(Process(algorithm, aggregator).round, client_map=map_clients))
    for _ in range(number):
        state, metrics = run(state, RoundBatch(data, ids=ids), KEY)
    return state, metrics


def test_full_batch_federated_step_is_the_centralised_step():
    algorithm, aggregator, state, data = setup(batch_size=0, epochs=1, client=optax.sgd(0.3))
    state, _ = rounds(algorithm, aggregator, state, data, 1)
    real = np.asarray(data.mask)
    pooled = Examples(*(jnp.asarray(np.asarray(leaf)[real]) for leaf in data))
    gradient, _ = toy.grad_fn()(toy.params(), pooled, KEY)
    expected = jax.tree.map(lambda p, g: p - 0.3 * g, toy.params(), gradient)
    toy.assert_close(state.server.params, expected)


@pytest.mark.parametrize("name", sorted(client_map.CLIENT_MAPS.keys() - {"vmap"}))
def test_every_map_over_clients_gives_what_vmap_gives(name):
    assert jax.device_count() == 4  # five clients on four devices: the last device holds padding
    parts = setup(client=optax.adam(0.01))
    expected = rounds(*parts, 3, map_clients=jax.vmap)
    actual = rounds(*parts, 3, map_clients=client_map.CLIENT_MAPS[name])
    toy.assert_close(actual, expected)


def test_more_padding_changes_no_bit():
    algorithm, aggregator, state, data = setup()
    expected = rounds(algorithm, aggregator, state, data, 2)
    actual = rounds(algorithm, aggregator, state, toy.pad(data, 7), 2)
    toy.assert_same_bits(actual, expected)


def test_permuting_clients_permutes_nothing_but_client_metrics():
    algorithm, aggregator, state, data = setup()
    expected, metrics = rounds(algorithm, aggregator, state, data, 2)
    order = jnp.array([3, 0, 4, 1, 2])
    shuffled = jax.tree.map(lambda leaf: leaf[order], data)
    actual, other = rounds(algorithm, aggregator, state, shuffled, 2, ids=order.astype(jnp.int32))
    toy.assert_close(actual.server, expected.server)
    toy.assert_close(other, jax.tree.map(lambda leaf: leaf[order], metrics))


def test_a_client_alone_is_trained_as_if_it_had_no_neighbours():
    algorithm, aggregator, state, data = setup()
    _, metrics = rounds(algorithm, aggregator, state, data, 1)
    alone = jax.tree.map(lambda leaf: leaf[1:2], data)
    start = Process(algorithm, aggregator).init(toy.params(), alone)
    _, one = rounds(algorithm, aggregator, start, alone, 1, ids=jnp.array([1], jnp.int32))
    toy.assert_close(one["loss"][0], metrics["loss"][1])


def test_many_rounds_compile_once():
    algorithm, aggregator, state, data = setup()
    traces = []

    def counted(state, data, key):
        traces.append(1)
        return Process(algorithm, aggregator).round(state, data, key)

    run = jax.jit(counted)
    for _ in range(4):
        state, _ = run(state, data, KEY)
    assert len(traces) == 1
    assert run._cache_size() == 1
    assert int(state.round) == 4


def test_rounds_draw_different_numbers_and_a_resumed_run_the_same():
    algorithm, aggregator, state, data = setup(client=optax.sgd(0.0))
    two, _ = rounds(algorithm, aggregator, state, data, 2)
    again = FederatedState(*jax.tree.map(jnp.array, two))
    toy.assert_same_bits(
        rounds(algorithm, aggregator, again, data, 2), rounds(algorithm, aggregator, state, data, 4)
    )


def test_weights_are_the_numbers_of_real_examples():
    _, metrics = rounds(*setup(), 1)
    assert metrics["weight"].tolist() == [5, 9, 2, 7, 6]
    assert metrics["count"].tolist() == [10, 18, 4, 14, 12]  # two epochs
    assert metrics["steps"].tolist() == [4, 6, 2, 4, 4]  # batches of four, each epoch


def test_a_client_with_nan_is_named():
    algorithm, aggregator, state, data = setup()
    broken = algorithm._replace(
        client_update=lambda server, client, examples, number, key: (
            result := algorithm.client_update(server, client, examples, number, key)
        )._replace(
            update=jax.tree.map(
                lambda leaf: jnp.where(jnp.sum(examples.mask) == 2, jnp.nan, leaf), result.update
            )
        )
    )
    _, metrics = rounds(broken, aggregator, state, data, 1)
    assert metrics["finite"].tolist() == [True, True, False, True, True]


def test_chained_transforms_act_before_the_aggregator():
    chained = aggregation.chain(clip.build(norm=1e-3), aggregator=mean.build())
    algorithm, _, state, data = setup(aggregator=chained)
    state, _ = rounds(algorithm, chained, state, data, 1)
    moved = jax.tree.map(jnp.subtract, state.server.params, toy.params())
    assert 0 < float(optax.tree.norm(moved)) <= 1e-3 * (1 + 1e-5)


def test_state_is_a_pytree_of_arrays_with_the_clients_in_front():
    _, _, state, _ = setup()
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), optax.sgd(1.0))
    server = algorithm.init(toy.params())[0]
    algorithm = algorithm._replace(init=lambda params: (server, {"control": jnp.arange(3.0)}))
    state = Process(algorithm, mean.build()).init(toy.params(), toy.federation(SIZES))
    assert state.clients["control"].shape == (5, 3)


def test_clients_and_rounds_draw_their_own_numbers():
    one = toy.federation((8,))
    data = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), one)  # three times the same
    algorithm, aggregator, state, _ = setup(sizes=(8, 8, 8), client=optax.sgd(0.1), epochs=1)
    _, first = rounds(algorithm, aggregator, state, data, 1)
    assert len(set(first["loss"].tolist())) == 3  # three orders of the batches
    later = state._replace(round=jnp.int32(1))
    _, second = rounds(algorithm, aggregator, later, data, 1)
    assert not set(first["loss"].tolist()) & set(second["loss"].tolist())


@pytest.mark.parametrize("strategy", toy.CLIENT_MAPS)
def test_buckets_of_like_size_change_nothing(strategy):
    rng = np.random.default_rng(3)
    sizes = tuple(int(size) for size in rng.integers(1, 24, 7))
    aggregator = aggregation.chain(clip.build(norm=0.05), aggregator=mean.build())
    plain, aggregator, state, data = setup(sizes, aggregator=aggregator)

    def client_update(server, client, examples, number, key):
        result = plain.client_update(server, (), examples, number, key)
        return result._replace(state=client + result.num_examples)

    algorithm = plain._replace(client_update=client_update)
    state = state._replace(clients=jnp.arange(7, dtype=jnp.float32))
    run = jax.jit(
        functools.partial(
            Process(algorithm, aggregator).round, client_map=client_map.CLIENT_MAPS[strategy]
        )
    )
    groups = bucketing.buckets(np.array(sizes), 4)
    assert len(groups) > 1
    places = tuple(jnp.asarray(group, jnp.int32) for group in groups)
    cut = tuple(
        jax.tree.map(lambda leaf, group=group: leaf[group, : max(sizes[i] for i in group)], data)
        for group in groups
    )
    expected, actual = state, state
    for _ in range(2):
        expected, one = run(expected, data, KEY)
        actual, other = run(actual, RoundBatch(cut, places), KEY)
    toy.assert_close((actual, other), (expected, one), rtol=1e-4, atol=1e-5)
    assert other["client"].tolist() == list(range(7))
