"""IFCA (Ghosh et al., NeurIPS 2020)."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import ifca
from fedjax_med.client.local_training import LocalTrainer, mean_loss
from fedjax_med.core.faults import Faults, Participation
from fedjax_med.core.process import Process
from fedjax_med.core.random import Stream
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Spec

KEY = jax.random.key(4)
TRAINING = LocalTrainer(toy.grad_fn(), optax.sgd(0.2), 1, 8)
PERMUTED = (1, 3, 4)  # clients whose labels mean something else


def planted():
    data = toy.federation((16, 12, 14, 16, 10, 16), seed=1)
    other = jnp.isin(jnp.arange(6), jnp.asarray(PERMUTED))[:, None]
    label = jnp.where(other & data.mask, (data.label + 1) % toy.CLASSES, data.label)
    return data._replace(label=label)


MOMENTUM = optax.sgd(0.5, momentum=0.9)
# Two programs give the same bits only if both are optimized, as the tests' own flags do not.
AS_USERS = toy.SAME_BITS | {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
ONE = {"clusters": 1}


@functools.cache
def rounds(number, name="ifca", optimizer=None, data=None, faults=None, **options):
    """All states and the last metrics."""
    algorithm = components.build(
        "algorithms", Spec(name, options), TRAINING, optimizer or optax.sgd(1.0)
    )
    aggregator, data = mean.build(), planted() if data is None else data()
    states = [Process(algorithm, aggregator).init(toy.params(), data)]
    step = jax.jit(
        Process(algorithm, aggregator, faults=faults or Faults()).round, compiler_options=AS_USERS
    )
    for _ in range(number):
        state, metrics = step(states[-1], data, KEY)
        states.append(state)
    return algorithm, states, metrics


def test_one_cluster_is_fed_avg_bit_for_bit():
    for one, other in zip(rounds(3, clusters=1)[1], rounds(3, "fed_avg")[1], strict=True):
        first = jax.tree.map(lambda leaf: leaf[0], one.server.params)
        toy.assert_same_bits(first, other.server.params)


def test_one_cluster_is_fed_avg_in_rounds_that_all_miss_too():
    given = {"optimizer": MOMENTUM, "faults": Faults(Participation(participation_rate=0.25))}
    one, other = (rounds(10, name, **given, **o)[1] for name, o in (("ifca", ONE), ("fed_avg", {})))
    moved = [
        not np.array_equal(a.server.params["w"], b.server.params["w"])
        for a, b in itertools.pairwise(other)
    ]
    assert any(moved[: moved.index(False)])  # there is momentum in the round that all miss
    for ours, theirs in zip(one, other, strict=True):
        first = jax.tree.map(lambda leaf: leaf[0], ours.server.params)
        toy.assert_same_bits(first, theirs.server.params)


def test_first_model_is_the_given_one_and_others_have_noise_of_the_spread():
    params = {"w": toy.params()["w"], "b": jnp.ones(4000), "zero": jnp.zeros((400, 10))}
    algorithm = ifca.build(TRAINING, optax.sgd(1.0), clusters=3, spread=0.5)
    server, client = algorithm.init(params)
    assert client.dtype == jnp.int32
    for name, deviation in (("w", jnp.std(params["w"])), ("b", 0.0), ("zero", 1 / 20)):
        np.testing.assert_array_equal(server.params[name][0], params[name])
        for other in (1, 2):
            noise = server.params[name][other] - params[name]
            np.testing.assert_allclose(jnp.std(noise), 0.5 * deviation, rtol=0.2)
    assert not np.array_equal(server.params["w"][1], server.params["w"][2])
    again = ifca.build(TRAINING, optax.sgd(1.0), clusters=3, spread=0.5).init(params)[0]
    toy.assert_same_bits(server, again)
    seeded = ifca.build(TRAINING, optax.sgd(1.0), clusters=3, spread=0.5, seed=1).init(params)[0]
    assert not np.array_equal(server.params["w"][1], seeded.params["w"][1])


def test_client_takes_the_model_of_least_loss_and_moves_it_alone():
    algorithm = ifca.build(TRAINING, optax.sgd(1.0), clusters=3, spread=1.0)
    server, client = algorithm.init(toy.params())
    update, loss = jax.jit(algorithm.client_update), jax.jit(functools.partial(mean_loss, TRAINING))
    choices = set()
    for number in range(6):
        one = jax.tree.map(lambda leaf, number=number: leaf[number], planted())
        losses = [
            loss(jax.tree.map(lambda leaf, k=k: leaf[k], server.params), one, KEY) for k in range(3)
        ]
        result = update(server, client, one, jnp.int32(0), KEY)
        assert int(result.cluster) == int(result.state) == int(np.argmin(losses))
        choices.add(int(result.cluster))
        chosen = jax.tree.map(lambda leaf, k=result.cluster: leaf[k], server.params)
        own = algorithm.personal_params(server, result.state)
        toy.assert_same_bits(own, chosen)
    assert len(choices) > 1


def test_model_of_nan_is_never_chosen():
    algorithm = ifca.build(TRAINING, optax.sgd(1.0))
    server, client = algorithm.init(toy.params())
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), server.params)
    one = jax.tree.map(lambda leaf: leaf[0], planted())
    result = algorithm.client_update(server._replace(params=broken), client, one, jnp.int32(0), KEY)
    assert int(result.cluster) == 1


def test_client_without_examples_keeps_its_choice():
    algorithm = ifca.build(TRAINING, optax.sgd(1.0))
    server, _ = algorithm.init(toy.params())
    one = jax.tree.map(lambda leaf: leaf[0], planted())
    empty = one._replace(mask=jnp.zeros_like(one.mask))
    result = algorithm.client_update(server, jnp.int32(1), empty, jnp.int32(0), KEY)
    assert int(result.state) == 1
    assert float(result.num_examples) == 0


def test_model_that_nobody_chose_stays_and_so_does_its_optimizers_memory():
    # Without spread the models are the same at first, and all clients choose the first one.
    _, (before, after), _ = rounds(1, optimizer=optax.adam(0.05), spread=0.0)
    assert after.clients.tolist() == [0] * 6
    for place, same in ((0, False), (1, True)):
        one, other = (
            jax.tree.map(
                lambda leaf, k=place: leaf[k], (state.server.params, state.server.optimizer)
            )
            for state in (before, after)
        )
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other))) == same


def test_model_that_is_left_stays_with_its_momentum():
    algorithm = ifca.build(TRAINING, optax.sgd(0.5, momentum=0.9))
    server, _ = algorithm.init(toy.params())
    push = jax.tree.map(jnp.ones_like, server.params)
    server = algorithm.server_update(server._replace(chosen=jnp.array([True, True])), push)
    nothing = jax.tree.map(jnp.zeros_like, push)
    after = algorithm.server_update(server._replace(chosen=jnp.array([True, False])), nothing)
    assert not np.array_equal(after.params["w"][0], server.params["w"][0])
    np.testing.assert_array_equal(after.params["w"][1], server.params["w"][1])


def test_planted_clusters_are_found_and_fit_better_than_one_model():
    _, states, metrics = rounds(15, spread=1.0)
    choice = np.asarray(states[-1].clients)
    other = np.isin(np.arange(6), PERMUTED)
    assert len(set(choice[other])) == len(set(choice[~other])) == 1
    assert choice[other][0] != choice[~other][0]
    _, _, plain = rounds(15, "fed_avg")
    loss, expected = (float(one["loss"].sum() / one["count"].sum()) for one in (metrics, plain))
    assert loss < 0.7 * expected


@pytest.mark.parametrize(
    ("options", "message"), [({"clusters": 0}, "clusters >= 1"), ({"spread": -0.1}, "spread >= 0")]
)
def test_option_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ifca.build(TRAINING, optax.sgd(1.0), **options)


def words(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_noise_of_the_models_is_no_key_of_an_experiment_with_the_same_seed(monkeypatch):
    drawn = []
    spread = ifca._spread

    def recorded(params, key, width):
        drawn.append(words(key))
        return spread(params, key, width)

    monkeypatch.setattr(ifca, "_spread", recorded)
    ifca.build(TRAINING, optax.sgd(1.0), clusters=4).init(toy.params())
    root = jax.random.key(0)  # of the default seed; split for initial weights and rounds
    others = [root, *jax.random.split(root, 4)]
    others += [jax.random.fold_in(others[2], number) for number in (0, 1, 2, *Stream)]
    assert len(set(drawn)) == 3
    assert not set(drawn) & set(map(words, others))
