"""FedRep: the head learns first, to the body that was sent; then the body, under the new head."""

import contradiction
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from contradiction import client, personal, rounds

from fedjax_med.algorithms import fed_avg, fed_rep
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.errors import UserError

SIZES = (6, 3, 4)
DATA = toy.federation(SIZES)
START = contradiction.params()


def test_two_rounds_are_those_of_numpy():
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 2, 0)
    algorithm = fed_rep.build(training, optax.sgd(1.0), local=("b",), head_epochs=3)
    history = rounds(algorithm, DATA, 2)
    shared = contradiction.numbers(toy.params())
    own = [shared["b"]] * 3
    for state, metrics in history[1:]:
        models = []
        for k in range(3):
            one = {"w": shared["w"], "b": own[k]}
            for name in "bbbww":
                step = contradiction.gradient(one, client(DATA, k))
                one = contradiction.move(one, step, 0.1, name)
            models.append(one)
        own = [one["b"] for one in models]
        shared["w"] = contradiction.mean_of(models, SIZES)["w"]
        np.testing.assert_allclose(state.server.params["w"], shared["w"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.clients["b"], own, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(state.server.params["b"], toy.params()["b"])
        assert metrics["steps"].tolist() == [5, 5, 5]
        assert metrics["count"].tolist() == [30, 15, 20]


def update_of(algorithm, server, own, one):
    return jax.jit(algorithm.client_update)(server, own, one, jnp.int32(0), contradiction.KEY)


def test_fixed_piece_does_not_move_by_momentum_or_decay():
    # Both would move a piece whose gradient is 0 but which the optimizer has.
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    one, heads, bodies = client(DATA, 0), [], []
    for epochs in (1, 4):
        training = LocalTrainer(toy.grad_fn(), optimizer, epochs, 0)
        algorithm = fed_rep.build(training, optax.sgd(1.0), local=("b",), head_epochs=2)
        server, own = algorithm.init(toy.params())
        result = update_of(algorithm, server, own, one)
        heads.append(result.state)
        bodies.append(result.update)
    toy.assert_same_bits(*heads)
    assert abs(bodies[1]["w"] - bodies[0]["w"]).max() > 1e-2
    # A body without gradient stays to the last bit but for its own single step's decay.
    still = training._replace(
        epochs=1,
        grad_fn=lambda p, batch, key: (
            {**training.grad_fn(p, batch, key)[0], "w": jnp.zeros_like(p["w"])},
            training.grad_fn(p, batch, key)[1],
        ),
    )
    algorithm = fed_rep.build(still, optax.sgd(1.0), local=("b",), head_epochs=7)
    server, own = algorithm.init(toy.params())
    result = update_of(algorithm, server, own, one)
    np.testing.assert_allclose(result.update["w"], 0.1 * 0.5 * toy.params()["w"], atol=1e-6)


def test_local_leaves_are_in_no_message():
    training = LocalTrainer(contradiction.grad_fn(), optax.sgd(0.2), 1, 4)
    algorithm = fed_rep.build(training, optax.sgd(1.0))
    server, own = algorithm.init(START)
    one = client(contradiction.data((5,)), 0)
    result = update_of(algorithm, server, own, one)
    assert jax.tree.leaves(result.update["classifier"]) == []
    assert jax.tree.structure(result.state) == jax.tree.structure(own)
    assert abs(result.update["body"]["kernel"]).max() > 0


def test_own_heads_are_right_where_clients_contradict_each_other():
    data = contradiction.data()
    training = LocalTrainer(contradiction.grad_fn(), optax.sgd(0.2), 1, 4)
    algorithm = fed_rep.build(training, optax.sgd(1.0), head_epochs=2)
    state = rounds(algorithm, data, 25, START)[-1][0]
    other = rounds(fed_avg.build(training, optax.sgd(1.0)), data, 25, START)[-1][0]
    of_one_model = contradiction.correct(training.grad_fn, lambda number: other.server.params, data)
    of_own = contradiction.correct(
        training.grad_fn, lambda number: personal(algorithm, state, number), data
    )
    assert of_one_model < 0.6
    assert of_own > 0.9


def test_absent_clients_keep_their_head():
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 1, 0)
    algorithm = fed_rep.build(training, optax.sgd(1.0), local=("b",), head_epochs=1)
    contradiction.check_absent_clients_keep_what_they_have(algorithm, DATA)


def test_head_that_never_trains_is_refused():
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1))
    with pytest.raises(UserError, match="head_epochs >= 1, got 0"):
        fed_rep.build(training, optax.sgd(1.0), head_epochs=0)
