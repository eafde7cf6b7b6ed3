"""Sums over the clients' own examples, from which a model fixes parameters before round one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.client.optimizers import leave_fixed
from fedjax_med.core.model import Statistics
from fedjax_med.data.client_data import ClientData
from fedjax_med.data.dataset import Split
from fedjax_med.errors import UserError
from fedjax_med.execution.statistics import at_site, federated_sums, take_statistics

OWN_ROWS = (np.array([4, 0, 2]), np.array([5]), np.array([], np.int64), np.array([1, 3]))


@pytest.fixture
def split():
    values = np.random.default_rng(0).normal(size=(6, 1, 1, 1, 3)).astype(np.float16)
    names = np.array([f"{number}.jpg" for number in range(6)])
    label = np.array([0, 1, 2, 0, 1, 2], np.int32)
    hashes = np.zeros((6, 32), np.uint8)
    return Split(values, label, names, names, hashes, np.full(6, -1, np.int32))


def _square_of_own(params, examples):
    """The square of the sum of a client's values: another one if it got rows of other clients."""
    rows = jnp.where(examples.mask[:, None], examples.image[:, 0, 0, 0].astype(jnp.float32), 0)
    return {"square": jnp.sum(rows, 0) ** 2 + params["shift"], "size": jnp.sum(examples.mask)}


SQUARES = Statistics(_square_of_own, lambda params, total: params | {"total": total["square"]})


def test_each_clients_function_gets_its_own_rows_and_the_totals_are_added_up(split):
    total = federated_sums(SQUARES, {"shift": 0.0}, ClientData(split, OWN_ROWS))
    values = split.image[:, 0, 0, 0].astype(np.float64)
    expected = sum(values[rows].sum(0) ** 2 for rows in OWN_ROWS)
    np.testing.assert_allclose(total["square"], expected, rtol=1e-6)
    assert total["size"] == 6
    assert total["square"].dtype == np.float64


def test_room_for_more_examples_changes_nothing(split):
    clients = ClientData(split, OWN_ROWS)
    exact, roomy = (
        federated_sums(SQUARES, {"shift": 0.0}, one)
        for one in (clients, clients._replace(min_capacity=9))
    )
    np.testing.assert_allclose(exact["square"], roomy["square"], rtol=1e-6)
    assert exact["size"] == roomy["size"]


def test_later_statistics_see_the_parameters_that_earlier_ones_fixed(split):
    first = Statistics(
        lambda params, examples: jnp.sum(examples.mask),
        lambda params, total: params | {"shift": float(total)},
    )
    model = toy.model()._replace(statistics=(first, SQUARES))
    clients = ClientData(split, OWN_ROWS)
    fixed = take_statistics(model, {"shift": 0.0}, clients)
    assert fixed["shift"] == 6
    plain = federated_sums(SQUARES, {"shift": 0.0}, clients)["square"]
    np.testing.assert_allclose(fixed["total"], plain + 6 * len(OWN_ROWS), rtol=1e-6)


def test_sums_that_are_not_finite_name_the_client(split):
    split.image[5] = np.nan
    with pytest.raises(UserError, match=r"examples of client 1, .* hold NaN or infinity"):
        federated_sums(SQUARES, {"shift": 0.0}, ClientData(split, OWN_ROWS))


def test_fixed_parameters_stay_under_weight_decay():
    optimizer = leave_fixed(optax.adamw(0.1, weight_decay=0.5), ("mean",))
    params = {"mean": jnp.ones(2), "kernel": jnp.ones(2)}
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["mean"], 0)
    plain = optax.adamw(0.1, weight_decay=0.5)
    expected, _ = plain.update(gradient, plain.init(params), params)
    np.testing.assert_array_equal(updates["kernel"], expected["kernel"])
    assert np.all(np.asarray(expected["mean"]) != 0)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_sites_own_statistics_have_their_share_and_nothing_else_changes(split, share):
    rows = jnp.asarray(split.image[:, 0, 0, 0], jnp.float32)
    mean = Statistics(
        lambda params, examples: jnp.sum(examples.image[:, 0, 0, 0].astype(jnp.float32), 0),
        lambda params, total: params | {"mean": {"of": total / 6}},
    )
    model = toy.model()._replace(statistics=(mean,), fixed=("mean",), own_statistics=share)
    params = {"mean": {"of": jnp.full(3, 5.0)}, "kernel": jnp.ones(3)}
    found = at_site(model, params, split)
    expected = (1 - share) * 5 + share * np.asarray(rows).mean(0)
    np.testing.assert_allclose(found["mean"]["of"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["kernel"], params["kernel"])
