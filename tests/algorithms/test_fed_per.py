"""FedPer: a body for all under a classifier for each."""

import contradiction
import jax
import optax
import pytest
import toy
from contradiction import personal, rounds

from fedjax_med.algorithms import fed_avg, fed_bn, fed_per
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.errors import UserError
from fedjax_med.models import linear

TRAINING = LocalTrainer(contradiction.grad_fn(), optax.sgd(0.2), 2, 4)
START = contradiction.params()


def test_classifier_stays_by_default_and_nothing_else():
    server, own = fed_per.build(TRAINING, optax.sgd(1.0)).init(START)
    toy.assert_same_bits(own, {"body": {"kernel": None}, "classifier": START["classifier"]})
    toy.assert_same_bits(server.params, START)


def test_one_client_alone_has_the_model_of_fed_avg():
    data = contradiction.data((7,))
    algorithm = fed_per.build(TRAINING, optax.sgd(1.0))
    state = rounds(algorithm, data, start=START)[-1][0]
    other = rounds(fed_avg.build(TRAINING, optax.sgd(1.0)), data, start=START)[-1][0]
    toy.assert_close(personal(algorithm, state, 0), other.server.params, rtol=1e-4)


def test_it_is_fed_bn_with_other_leaves():
    data = contradiction.data((7, 3))
    algorithms = [
        fed_per.build(TRAINING, optax.adam(0.1)),
        fed_bn.build(TRAINING, optax.adam(0.1), local=("classifier",)),
    ]
    states = [rounds(algorithm, data, start=START)[-1][0] for algorithm in algorithms]
    toy.assert_same_bits(*states)


def test_own_classifiers_are_right_where_clients_contradict_each_other():
    data = contradiction.data()
    algorithm = fed_per.build(TRAINING, optax.sgd(1.0))
    state = rounds(algorithm, data, 30, START)[-1][0]
    other = rounds(fed_avg.build(TRAINING, optax.sgd(1.0)), data, 30, START)[-1][0]
    of_one_model = contradiction.correct(TRAINING.grad_fn, lambda number: other.server.params, data)
    of_own = contradiction.correct(
        TRAINING.grad_fn, lambda number: personal(algorithm, state, number), data
    )
    assert of_one_model < 0.6
    assert of_own > 0.9


def test_absent_clients_keep_their_classifier():
    algorithm = fed_per.build(TRAINING, optax.sgd(1.0))
    contradiction.check_absent_clients_keep_what_they_have(
        algorithm, contradiction.data((7, 3, 5)), START
    )


def test_model_that_is_all_classifier_is_refused():
    params = linear.build(3).init(jax.random.key(0), toy.IMAGE)
    with pytest.raises(UserError, match="to leave something of the model to share"):
        fed_per.build(TRAINING, optax.sgd(1.0)).init(params)
