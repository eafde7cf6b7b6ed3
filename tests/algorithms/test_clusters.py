"""Models for clusters of clients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from scipy.cluster import hierarchy
from scipy.spatial import distance

from fedjax_med.algorithms import _clusters
from fedjax_med.core.algorithm import ClientOutput
from fedjax_med.core.trees import take


def models():
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[toy.params(seed) for seed in range(3)])


def test_stack_is_copies_and_pick_takes_them_out():
    stacked = _clusters.stack(toy.params(), 3)
    for group in range(3):
        toy.assert_same_bits(take(stacked, jnp.int32(group)), toy.params())
    toy.assert_same_bits(take(models(), jnp.int32(2)), toy.params(2))


def test_step_is_the_optimizers_own_in_each_cluster_and_none_where_it_stands_still():
    optimizer = optax.sgd(0.5, momentum=0.9)
    stacked, state = models(), jax.vmap(optimizer.init)(models())
    messages = jax.tree.map(jnp.ones_like, stacked)
    first = stacked, state = _clusters.step(
        optimizer, stacked, state, messages, jnp.array([True, True, True])
    )
    zero = jax.tree.map(jnp.zeros_like, messages)
    moves = jnp.array([True, False, True])
    after = _clusters.step(optimizer, stacked, state, zero, moves)
    for group, moved in enumerate(moves):
        before = take(first, group)
        if moved:  # momentum moves it although its message is zero
            updates, memory = optimizer.update(take(zero, group), before[1], before[0])
            before = optax.apply_updates(before[0], updates), memory
            toy.assert_close(take(after, group), before)
        else:
            toy.assert_same_bits(take(after, group), before)


def test_occupied_are_those_with_a_client_that_counts():
    results = ClientOutput((), (), jnp.array([0.0, 2.0, 0.0]), {}, jnp.array([0, 2, 2]))
    assert _clusters.occupied(results, 4).tolist() == [False, False, True, False]


def test_inner_products_are_over_all_leaves():
    rng = np.random.default_rng(0)
    messages = {
        name: rng.normal(size=(4, *shape)) for name, shape in {"a": (2, 3), "b": ()}.items()
    }
    flat = np.concatenate([messages["a"].reshape(4, -1), messages["b"][:, None]], axis=1)
    actual = _clusters.inner_products(jax.tree.map(jnp.float32, messages))
    np.testing.assert_allclose(actual, flat @ flat.T, rtol=1e-5, atol=1e-5)


@functools.cache
def compiled():
    return jax.jit(_clusters.bipartition)


@pytest.mark.parametrize("seed", range(12))
def test_bipartition_is_complete_linkage_of_scipy(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, (9, 9)).astype(np.float32)
    similarity = (similarity + similarity.T) / 2
    np.fill_diagonal(similarity, 1)
    member = np.ones(9, bool)
    member[rng.permutation(9)[: seed % 6]] = False
    inside = similarity[np.ix_(member, member)]
    tree = hierarchy.linkage(distance.squareform(1 - inside, checks=False), "complete")
    label = hierarchy.fcluster(tree, 2, "maxclust")
    half = np.asarray(compiled()(similarity, member))
    np.testing.assert_array_equal(half[member], label != label[0])
    assert not half[~member].any()


def test_bipartition_of_two_takes_them_apart():
    member = jnp.array([False, True, False, True])
    half = compiled()(jnp.ones((4, 4)), member)
    assert half.tolist() == [False, False, False, True]


def test_chain_of_neighbours_is_cut_by_complete_linkage_and_not_by_single():
    # Points on a line at 0, 1, 2.1, 3.3: single linkage would leave the last one alone.
    place = jnp.array([0.0, 1.0, 2.1, 3.3])
    similarity = -jnp.abs(place[:, None] - place[None])
    assert _clusters.bipartition(similarity, jnp.ones(4, bool)).tolist() == [
        False,
        False,
        True,
        True,
    ]
