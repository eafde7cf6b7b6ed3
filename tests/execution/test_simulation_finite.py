"""A simulation stops when a number is no longer finite, and says whose it was."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hospitals import KEY

import fedjax_med as fm

PARAMS = {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 2))}
LABELS, OWNER = np.arange(12) % 2, np.arange(12) % 3


def inputs(**broken):
    """Two features of twelve patients; of those in `broken`, the second is something else."""
    values = np.random.default_rng(0).normal(size=(12, 2))
    for row, value in broken.items():
        values[int(row[3:]), 1] = value
    return values


def apply(params, inputs, key):
    return jnp.maximum(inputs @ params["a"], 0) @ params["b"]


def simulation(aggregator=None, rate=0.1, **options):
    model = fm.Model(lambda key, shape: PARAMS, apply)
    gradient = fm.client.cross_entropy(model, lambda inputs, key: inputs, num_classes=2)
    trainer = fm.LocalTrainer(gradient, optax.sgd(rate))
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    return fm.Simulation(fm.Process(algorithm, aggregator or fm.aggregators.mean.build()))


def rounds(simulation, clients, params=PARAMS):
    state = simulation.init(params, clients)
    return list(simulation.rounds(state, clients, KEY, num_rounds=2))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_that_are_not_finite_are_told_with_round_client_and_row(value):
    clients = fm.data.from_arrays(inputs(row4=value, row7=value), LABELS, OWNER)
    said = (
        r"round 1: the update of client 1 holds NaN .*as its inputs do, first in row 4.*"
        r"clean the data, lower the learning rate.*skip_invalid=True"
    )
    with pytest.raises(fm.UserError, match=said):
        rounds(simulation(), clients)


def test_the_leaf_is_named_and_so_are_all_clients():
    tree = {"dose": inputs(row4=np.nan, row5=np.nan)}
    clients = fm.data.from_arrays(tree, LABELS, OWNER)
    trainer = fm.LocalTrainer(
        fm.client.mean_gradient(lambda p, x, y, key: (x["dose"] @ p["w"] - y) ** 2), optax.sgd(0.1)
    )
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    faults = fm.Faults(fm.Participation(skip_invalid=True))
    process = fm.Process(algorithm, fm.aggregators.mean.build())
    params = {"w": jnp.zeros(2)}
    with pytest.raises(fm.UserError, match=r"of clients 1, 2 holds .*its inputs dose do, .* row 4"):
        rounds(fm.Simulation(process), clients, params)
    target = np.where(np.arange(12) == 3, np.nan, 1.0)
    with pytest.raises(fm.UserError, match=r"client 0 holds .*its labels do, first in row 3"):
        rounds(
            fm.Simulation(process),
            fm.data.from_arrays({"dose": inputs()}, target, OWNER),
            params,
        )
    *_, last = rounds(fm.Simulation(process._replace(faults=faults)), clients, params)
    assert last.metrics["counted"].tolist() == [True, False, False]


def test_missing_values_that_prepare_replaces_are_welcome():
    clients = fm.data.from_arrays(inputs(row4=np.nan), LABELS, OWNER)
    model = fm.Model(lambda key, shape: PARAMS, apply)
    gradient = fm.client.cross_entropy(
        model, lambda inputs, key: jnp.nan_to_num(inputs), num_classes=2
    )
    trainer = fm.LocalTrainer(gradient, optax.sgd(0.1))
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    process = fm.Process(algorithm, fm.aggregators.mean.build())
    assert len(rounds(fm.Simulation(process), clients)) == 2


def test_a_learning_rate_that_is_too_high_is_told_without_a_row():
    clients = fm.data.from_arrays(inputs(), LABELS, OWNER)
    with pytest.raises(fm.UserError, match="holds NaN or infinity: clean the data, lower the"):
        rounds(simulation(rate=1e38), clients)


def test_an_aggregator_that_returns_nan_is_told():
    def update(messages, info, state, key):
        return jax.tree.map(lambda leaf: leaf[0] * jnp.nan, messages), state

    clients = fm.data.from_arrays(inputs(), LABELS, OWNER)
    broken = fm.Aggregator(lambda message, clients, senders: (), update)
    with pytest.raises(fm.UserError, match=r"round 1: the new state holds NaN .* what the aggreg"):
        rounds(simulation(broken), clients)


def test_parameters_that_are_not_finite_are_refused_before_the_first_round():
    clients = fm.data.from_arrays(inputs(), LABELS, OWNER)
    with pytest.raises(fm.UserError, match=r"initial parameters that are finite, got .* in a"):
        simulation().init({**PARAMS, "a": PARAMS["a"] * jnp.nan}, clients)
