"""Aggregators that stand hostile clients, against the same in NumPy, one client after the other."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.aggregators import (
    _robust,
    bulyan,
    geometric_median,
    krum,
    mean,
    median,
    norm_bounded_mean,
    trimmed_mean,
)
from fedjax_med.core import aggregation
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Spec

KEY = jax.random.key(0)
SIZE = 9


def messages(seed, size=SIZE):
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(size=(size, 2, 3)).astype(np.float32),
        "b": rng.normal(size=size).astype(np.float32),
    }


def one_of(stacked):
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def reduce(aggregator, stacked, weights):
    size = len(weights)
    state = aggregator.init(one_of(stacked), size, size)
    client_info = aggregation.all_clients(jnp.asarray(weights, jnp.float32))
    return jax.jit(aggregator.update)(stacked, client_info, state, KEY)[0]


def flat(stacked):
    return np.concatenate(
        [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(stacked)],
        axis=1,
    )


def flat_one(message):
    return flat(jax.tree.map(lambda leaf: np.asarray(leaf)[None], message))[0]


def uniform(x, w):
    return x.mean(0)


def reference_median(x, w):
    return np.median(x, axis=0)


def reference_trimmed(share, x, w):
    cut = math.floor(share * len(x) + 1e-9)
    return np.sort(x, axis=0)[cut : len(x) - cut].mean(0)


def reference_geometric(iterations, x, w):
    point = np.zeros(x.shape[1])
    for _ in range(iterations):
        pull = w / np.maximum(np.linalg.norm(x - point, axis=1), 1e-6)
        point = (pull[:, None] * x).sum(0) / pull.sum()
    return point


def best_first(x, hostile):
    scores = []
    for i in range(len(x)):
        others = sorted(((x[i] - x[j]) ** 2).sum() for j in range(len(x)) if j != i)
        scores.append(sum(others[: max(len(x) - hostile - 2, 1)]))
    return np.argsort(scores, kind="stable")


def reference_krum(hostile, keep, x, w):
    return x[best_first(x, hostile)[:keep]].mean(0)


def reference_bulyan(hostile, x, w):
    left, chosen = list(range(len(x))), []
    for _ in range(max(len(x) - 2 * hostile, 1)):
        chosen.append(left.pop(best_first(x[left], hostile)[0]))
    values = x[chosen]
    apart = np.abs(values - np.median(values, axis=0))
    if len(chosen) <= 2 * hostile:
        return np.median(values, axis=0)
    order = np.argsort(apart, axis=0)[: len(chosen) - 2 * hostile]
    return np.take_along_axis(values, order, axis=0).mean(0)


def reference_bounded(norm, x, w):
    norms = np.linalg.norm(x, axis=1)
    bound = norm or np.median(norms)
    clipped = x * np.minimum(1, bound / norms)[:, None]
    return (w[:, None] * clipped).sum(0) / w.sum()


part = functools.partial
REFERENCES = {
    "median": (median.build(), reference_median),
    "trimmed_mean": (trimmed_mean.build(), part(reference_trimmed, 0.2)),
    "trimmed_mean-more": (trimmed_mean.build(share=0.34), part(reference_trimmed, 0.34)),
    "geometric_median": (geometric_median.build(), part(reference_geometric, 5)),
    "krum": (krum.build(), part(reference_krum, 1, 1)),
    "multi-krum": (krum.build(hostile=3, keep=4), part(reference_krum, 3, 4)),
    "bulyan": (bulyan.build(), part(reference_bulyan, 1)),
    "norm_bounded_mean": (norm_bounded_mean.build(), part(reference_bounded, 0)),
    "norm_bounded_mean-2": (norm_bounded_mean.build(norm=2.0), part(reference_bounded, 2)),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_aggregator_is_its_reference_over_the_clients_that_count(name):
    aggregator, reference = REFERENCES[name]
    update = jax.jit(aggregator.update)
    for seed, absent in enumerate(
        [0, 1, 2, 3, 5, 7, 8]
    ):  # also fewer than the aggregator is made for
        rng = np.random.default_rng(seed)
        stacked, weights = messages(seed), rng.integers(1, 30, SIZE).astype(np.float32)
        weights[rng.permutation(SIZE)[:absent]] = 0
        here = weights > 0
        expected = reference(flat(stacked)[here], weights[here].astype(np.float64))
        shout = jax.tree.map(
            lambda leaf, here=here: np.where(
                here.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, np.inf
            ),
            stacked,
        )
        state = aggregator.init(one_of(stacked), SIZE, SIZE)
        actual, _ = update(shout, aggregation.all_clients(jnp.asarray(weights)), state, KEY)
        np.testing.assert_allclose(flat_one(actual), expected, rtol=1e-4, atol=1e-5)


def test_trimmed_mean_of_zero_is_the_uniform_mean():
    weights = [3.0, 0.0, 1.0, 5.0, 9.0, 0.0, 2.0, 2.0, 7.0]
    expected = reduce(mean.build(weighting="uniform"), messages(1), weights)
    toy.assert_close(reduce(trimmed_mean.build(share=0.0), messages(1), weights), expected)


def test_trimmed_mean_cuts_the_rounded_down_share_even_where_the_product_is_not_exact():
    values = np.zeros((100, 1), np.float32)
    values[:29] = 1e6
    stacked, weights = {"a": values}, np.ones(100)
    assert math.floor(0.29 * 100) == 28
    assert reduce(trimmed_mean.build(share=0.29), stacked, weights)["a"] == 0
    assert reduce(trimmed_mean.build(share=0.28), stacked, weights)["a"] > 0


@pytest.mark.parametrize("keep", [1, SIZE])
def test_krum_of_one_is_a_message_and_multi_krum_of_all_is_the_uniform_mean(keep):
    stacked, weights = messages(2), np.arange(1, SIZE + 1)
    message = reduce(krum.build(keep=keep), stacked, weights)
    if keep == 1:
        assert (flat(stacked) == flat_one(message)).all(axis=1).sum() == 1
    else:
        toy.assert_close(message, reduce(mean.build(weighting="uniform"), stacked, weights))


def test_krum_of_equal_scores_is_the_same_client_in_every_order():
    # With one neighbour, two that are nearest to each other have the same score.
    stacked, weights = {"a": jnp.array([[0.0], [1.0], [5.0]])}, jnp.ones(3)
    aggregator, client_info = krum.build(hostile=0), aggregation.all_clients(weights)
    first, _ = aggregator.update(stacked, client_info, (), KEY)
    order = jnp.array([1, 2, 0])
    moved = client_info._replace(client=client_info.client[order])
    second, _ = aggregator.update({"a": stacked["a"][order]}, moved, (), KEY)
    assert first["a"].tolist() == second["a"].tolist() == [0.0]


def test_bulyan_without_hostile_clients_is_the_uniform_mean():
    expected = reduce(mean.build(weighting="uniform"), messages(3), np.ones(SIZE))
    toy.assert_close(reduce(bulyan.build(hostile=0), messages(3), np.ones(SIZE)), expected)


def test_bulyan_stands_a_message_that_is_off_in_one_coordinate_and_krum_can_take_it():
    """The attack of the paper: near in norm, since honest messages differ in many coordinates."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(11, 1000)).astype(np.float32)
    honest[:, 0] *= 0.01
    honest[0] = honest[1:].mean(0)
    honest[0, 0] = 10.0
    stacked, weights = {"a": honest}, np.ones(11)
    assert reduce(krum.build(hostile=2), stacked, weights)["a"][0] == 10
    assert abs(reduce(bulyan.build(hostile=2), stacked, weights)["a"][0]) < 0.02


def test_geometric_median_has_the_least_weighted_sum_of_distances():
    stacked, weights = messages(4), np.arange(1.0, SIZE + 1)
    points, point = flat(stacked), None
    point = flat_one(reduce(geometric_median.build(iterations=200), stacked, weights))

    def total(where):
        return (weights * np.linalg.norm(points - where, axis=1)).sum()

    rng = np.random.default_rng(0)
    for _ in range(20):
        assert total(point) < total(point + 0.05 * rng.normal(size=point.shape))
    assert total(point) < total((weights[:, None] * points).sum(0) / weights.sum()) - 0.01


def test_geometric_median_on_a_message_is_finite_and_stays_there():
    stacked = {"a": jnp.array([[0.0], [0.0], [0.0], [8.0]])}  # it starts on three of them
    assert reduce(geometric_median.build(), stacked, np.ones(4))["a"] == pytest.approx(0, abs=1e-5)


def test_norm_bounded_mean_of_a_large_norm_is_the_mean():
    weights = np.arange(1, SIZE + 1)
    expected = reduce(mean.build(), messages(5), weights)
    toy.assert_close(reduce(norm_bounded_mean.build(norm=1e3), messages(5), weights), expected)


ROBUST = {
    "median": {},
    "trimmed_mean": {},
    "geometric_median": {},
    "krum": {},
    "multi-krum": {"keep": 3},
    "norm_bounded_mean": {},
    "bulyan": {},
}


@pytest.mark.parametrize("far", [1e6, 1e30])
@pytest.mark.parametrize("name", ROBUST)
def test_one_message_of_five_moves_the_mean_away_and_no_robust_aggregator(name, far):
    size = 7 if name == "bulyan" else 5
    stacked = jax.tree.map(lambda leaf: leaf.copy(), messages(6, size))
    for leaf in stacked.values():
        leaf[2] = far
    aggregator = components.build("aggregators", Spec(name.removeprefix("multi-"), ROBUST[name]))
    message = flat_one(reduce(aggregator, stacked, np.ones(size)))
    honest = np.delete(flat(stacked), 2, axis=0)
    assert np.linalg.norm(flat_one(reduce(mean.build(), stacked, np.ones(size)))) > far / size
    assert np.linalg.norm(message) <= np.linalg.norm(honest, axis=1).max()


def built(name):
    return components.build("aggregators", Spec(name.removeprefix("multi-"), ROBUST[name]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ROBUST)
def test_robust_aggregator_leaves_out_a_message_with_a_value_that_is_not_finite(name, bad):
    stacked, weights = messages(8), np.arange(1.0, SIZE + 1)
    expected = reduce(built(name), stacked, np.where(np.arange(SIZE) == 4, 0, weights))
    stacked["a"][4, 1, 2] = bad  # it counts, and is whole elsewhere
    toy.assert_same_bits(reduce(built(name), stacked, weights), expected)


def test_aggregators_say_whether_they_are_robust():
    robust = {
        name: components.build("aggregators", Spec(name)).is_robust
        for name in components.names("aggregators")
    }
    assert robust == {name: name in ROBUST for name in robust}
    assert not trimmed_mean.build(share=0.0).is_robust  # the uniform mean
    chained = aggregation.chain(aggregation.UNCHANGED, aggregator=median.build())
    assert chained.is_robust
    assert aggregation.per_cluster(chained, 2).is_robust


@pytest.mark.parametrize("name", ROBUST)
def test_robust_aggregator_works_in_half_precision(name):
    stacked = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), messages(7))
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), stacked)
    aggregator = components.build("aggregators", Spec(name.removeprefix("multi-"), ROBUST[name]))
    message = reduce(aggregator, stacked, np.ones(SIZE))
    assert {leaf.dtype for leaf in jax.tree.leaves(message)} == {jnp.dtype(jnp.bfloat16)}
    expected = flat_one(reduce(aggregator, exact, np.ones(SIZE)))
    as_floats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), message)
    np.testing.assert_allclose(flat_one(as_floats), expected, atol=0.05)


def test_distances_of_like_messages_are_not_lost_in_their_size():
    stacked = {"a": jnp.array([[1000.0, 0.0], [1000.0, 0.01], [1000.0, 0.03]])}
    expected = [[0.0, 1e-4, 9e-4], [1e-4, 0.0, 4e-4], [9e-4, 4e-4, 0.0]]
    np.testing.assert_allclose(_robust.squared_distances(stacked), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "client_info", "words"),
    [
        ("trimmed_mean", {"share": 0.5}, 5, "0 <= share < 0.5, got share=0.5"),
        ("trimmed_mean", {"share": -0.1}, 5, "0 <= share < 0.5"),
        ("trimmed_mean", {}, 4, "at least 5 clients .* got 4: raise share"),
        ("trimmed_mean", {"share": 0.34}, 2, "at least 3 clients"),
        ("geometric_median", {"iterations": 0}, 5, "iterations >= 1, got 0"),
        ("geometric_median", {"smoothing": 0.0}, 5, "smoothing > 0"),
        ("krum", {"hostile": -1}, 5, "hostile >= 0"),
        ("krum", {"keep": 0}, 5, "keep >= 1"),
        ("krum", {"hostile": 2}, 6, "at least 7 clients .* got 6"),
        ("krum", {"keep": 6}, 5, "at least 6 clients .* got 5"),
        ("bulyan", {"hostile": -1}, 5, "hostile >= 0"),
        ("bulyan", {}, 6, "at least 7 clients .* got 6"),
        ("norm_bounded_mean", {"norm": -1.0}, 5, "norm >= 0, got norm=-1.0"),
        ("norm_bounded_mean", {"norm": float("nan")}, 5, "norm >= 0"),
    ],
)
def test_aggregator_refuses_what_it_cannot_do(name, options, client_info, words):
    with pytest.raises(UserError, match=words):
        components.build("aggregators", Spec(name, options)).init(
            {"a": jnp.zeros(2)}, 20, client_info
        )


@pytest.mark.parametrize(("name", "client_info"), [("krum", 5), ("bulyan", 7), ("trimmed_mean", 5)])
def test_aggregator_takes_as_few_clients_as_its_paper_does(name, client_info):
    components.build("aggregators", Spec(name)).init({"a": jnp.zeros(2)}, client_info, client_info)
