import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import _report_loss, fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import LOSS_BEFORE
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch

KEY = jax.random.key(4)
SIZES = (7, 3, 5)
DATA = toy.federation(SIZES)


def round_metrics(data, batch_size=4, wrapped=True):
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 2, batch_size)
    algorithm = fed_avg.build(training, optax.sgd(1.0))
    algorithm = _report_loss.report_loss(algorithm, training) if wrapped else algorithm
    aggregator = mean.build()
    state = Process(algorithm, aggregator).init(toy.params(), data)
    step = functools.partial(Process(algorithm, aggregator).round, client_map=toy.MAP_CLIENTS)
    return jax.jit(step)(state, data, KEY)


@functools.cache
def losses_by_hand():
    params, loss = toy.params(), jax.jit(lambda *one: toy.grad_fn()(*one, KEY)[1]["loss"])
    means = []
    for client, size in enumerate(SIZES):
        alone = [
            jax.tree.map(lambda leaf, at=(client, n): leaf[at][None], DATA) for n in range(size)
        ]
        means.append(float(sum(loss(params, example) for example in alone)) / size)
    return means


@pytest.mark.parametrize(("batch_size", "padding"), [(4, 0), (2, 0), (0, 0), (4, 6)])
def test_loss_is_the_mean_loss_of_the_global_model_at_the_client(batch_size, padding):
    data = toy.pad(DATA, padding) if padding else DATA
    _, metrics = round_metrics(data, batch_size)
    np.testing.assert_allclose(metrics[LOSS_BEFORE], losses_by_hand(), rtol=1e-5)


def test_telling_the_loss_changes_nothing_else():
    told, metrics = round_metrics(DATA)
    plain, others = round_metrics(DATA, wrapped=False)
    toy.assert_close(told, plain)
    assert set(metrics) - set(others) == {LOSS_BEFORE}


def test_loss_of_a_client_without_examples_is_zero():
    _, metrics = round_metrics(toy.federation((4, 0)))
    losses = metrics[LOSS_BEFORE]
    assert losses[0] > 0
    assert losses[1] == 0


def test_aggregator_is_given_the_losses_in_the_order_of_the_messages():
    def tell(messages, client_info, state, key):
        return mean.build().update(messages, client_info, state, key)[0], client_info

    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 1, 4)
    algorithm = _report_loss.report_loss(fed_avg.build(training, optax.sgd(1.0)), training)
    aggregator = mean.build()._replace(update=tell, needs_loss=True)
    places = (jnp.array([2]), jnp.array([0]))
    chosen = tuple(jax.tree.map(lambda leaf, at=at: leaf[at], DATA) for at in places)
    state = Process(algorithm, aggregator).init(toy.params(), DATA)
    step = jax.jit(Process(algorithm, aggregator).round)
    told = step(state, RoundBatch(chosen, places), KEY)[0].aggregator
    assert told.client.tolist() == [0, 2]
    assert told.num_examples.tolist() == [7, 5]
    expected = losses_by_hand()
    np.testing.assert_allclose(told.loss, [expected[0], expected[2]], rtol=1e-5)
