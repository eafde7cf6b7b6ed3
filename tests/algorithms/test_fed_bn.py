"""FedBN: some leaves stay at the clients, and neither messages nor the server have them."""

import contradiction
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from contradiction import KEY, client, personal, rounds

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg, fed_bn
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.algorithm import message_of
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch
from fedjax_med.errors import UserError
from fedjax_med.models import cnn

SIZES = (6, 3, 4)
DATA = toy.federation(SIZES)


def build(server=None, rate=0.1, **options):
    training = LocalTrainer(toy.grad_fn(), optax.sgd(rate), batch_size=0)
    return fed_bn.build(training, server or optax.sgd(1.0), **{"local": ("b",), **options})


def test_without_local_leaves_it_is_fed_avg():
    training = LocalTrainer(toy.grad_fn(), optax.adam(0.1), 2, 2)
    models = [
        rounds(algorithm, DATA)[-1][0].server.params
        for algorithm in (
            fed_bn.build(training, optax.adam(0.1), local=()),
            fed_avg.build(training, optax.adam(0.1)),
        )
    ]
    toy.assert_same_bits(*models)


def test_local_leaves_are_in_no_message_and_in_no_optimizer_of_the_server():
    algorithm = build(optax.sgd(1.0, momentum=0.9))
    state = Process(algorithm, mean.build()).init(toy.params(), DATA)
    one = client(state.clients, 0)
    shapes = message_of(algorithm, state.server, one, DATA)
    whole = toy.params()["w"].shape
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [whole]
    assert [leaf.shape for leaf in jax.tree.leaves(state.server.optimizer)] == [whole]
    sent = algorithm.download(state.server, one)
    assert [leaf.shape for leaf in jax.tree.leaves(sent)] == [whole]
    assert [leaf.shape for leaf in jax.tree.leaves(state.clients)] == [(3, toy.CLASSES)]


def test_two_rounds_are_those_of_numpy():
    history = rounds(build(), DATA, 2)
    shared = contradiction.numbers(toy.params())
    own = [shared["b"]] * 3
    for state, _ in history[1:]:
        models = []
        for k in range(3):
            start = {"w": shared["w"], "b": own[k]}
            step = contradiction.gradient(start, client(DATA, k))
            models.append(contradiction.move(start, step, 0.1))
        own = [one["b"] for one in models]
        shared["w"] = contradiction.mean_of(models, SIZES)["w"]
        np.testing.assert_allclose(state.server.params["w"], shared["w"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.clients["b"], own, rtol=1e-4, atol=1e-6)


def test_global_model_keeps_the_first_values_of_local_leaves():
    algorithm = build()
    state = rounds(algorithm, DATA)[-1][0]
    np.testing.assert_array_equal(state.server.params["b"], toy.params()["b"])
    used = personal(algorithm, state, 1)
    np.testing.assert_array_equal(used["w"], state.server.params["w"])
    np.testing.assert_array_equal(used["b"], state.clients["b"][1])
    assert not np.array_equal(state.clients["b"][1], state.clients["b"][0])


def test_absent_clients_keep_their_leaves():
    contradiction.check_absent_clients_keep_what_they_have(build(), DATA)


def test_clients_outside_of_the_cohort_and_those_without_examples_keep_their_leaves():
    data = toy.federation((6, 0, 4, 5))
    places = jnp.array([1, 2], jnp.int32)
    process = Process(build(), mean.build())
    state = process.init(toy.params(), data)
    some = jax.tree.map(lambda leaf: leaf[places], data)
    state, _ = process.round(state, RoundBatch(some, (places,)), KEY)
    changed = [(row != toy.params()["b"]).any() for row in state.clients["b"]]
    assert changed == [False, False, True, False]


def test_own_bias_makes_up_for_another_brightness():
    # The feature shift of the paper: each client's images have their own brightness.
    data = toy.federation((16, 16, 16))
    shift = jnp.array([0, 30, 60], jnp.uint8).reshape(3, 1, 1, 1, 1)
    data = data._replace(image=jnp.minimum(data.image, 190) + shift)
    final = {}
    for local in ((), ("b",)):
        metrics = rounds(build(rate=0.05, local=local), data, 40)[-1][1]
        final[local] = float(metrics["loss"].sum())
    assert final[("b",)] < 0.9 * final[()]


def test_default_is_the_normalisation_of_the_cnn():
    params = cnn.build(3, widths=(8,), groups=2).init(jax.random.key(0), (8, 8, 3))
    algorithm = fed_bn.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), optax.sgd(1.0))
    _, own = algorithm.init(params)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(own)) == [(8,), (8,)]
    np.testing.assert_array_equal(own["block_0"]["normalisation"]["scale"], jnp.ones(8))


def test_leaf_that_the_model_does_not_have_is_refused_at_the_start():
    with pytest.raises(UserError, match="no 'bias' in the model's parameters"):
        build(local=("bias",)).init(toy.params())
