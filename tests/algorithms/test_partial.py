"""Leaves apart from others: which are meant, and that nothing is lost between the two."""

import jax
import jax.numpy as jnp
import optax
import pytest
import toy

from fedjax_med.algorithms._partial import merge, split
from fedjax_med.errors import UserError
from fedjax_med.models import cnn

CNN = jax.eval_shape(
    lambda: cnn.build(3, widths=(8, 8), groups=2).init(jax.random.key(0), (8, 8, 3))
)
KERNELS = {"block_0/convolution/kernel", "block_1/convolution/kernel", "classifier/kernel"}
NORMAL_0 = {"block_0/normalisation/bias", "block_0/normalisation/scale"}
NORMAL_1 = {"block_1/normalisation/bias", "block_1/normalisation/scale"}


def names(tree):
    paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("normalisation",), NORMAL_0 | NORMAL_1),
        (("norm*",), NORMAL_0 | NORMAL_1),
        (("block_0/normalisation",), NORMAL_0),
        (("block_0/normalisation/scale", "block_1/norm*"), NORMAL_1 | {max(NORMAL_0)}),
        (("block_1",), NORMAL_1 | {"block_1/convolution/kernel"}),
        (("classifier/bias",), {"classifier/bias"}),
        (("*/kernel",), KERNELS),
        (["kernel"], KERNELS),
        ((), set()),
    ],
)
def test_pattern_means_a_name_on_the_way_or_the_way_from_the_top(patterns, expected):
    shared, own = split(CNN, patterns)
    assert names(own) == expected
    assert names(shared) == names(CNN) - expected


@pytest.mark.parametrize("patterns", [("w",), ("b",), ()])
def test_joined_pieces_are_the_whole(patterns):
    params = toy.params()
    toy.assert_same_bits(merge(*split(params, patterns)), params)


def test_lists_are_named_by_their_places():
    params = {"layers": [{"w": jnp.ones(2)}, {"w": jnp.zeros(3)}], "b": jnp.ones(1)}
    shared, own = split(params, ("layers/1",))
    assert names(own) == {"layers/1/w"}
    toy.assert_same_bits(merge(shared, own), params)


def test_optimizer_of_a_piece_remembers_that_piece_alone():
    shared, own = split(toy.params(), ("b",))
    assert [leaf.shape for leaf in jax.tree.leaves(optax.trace(0.9).init(own))] == [(3,)]
    updates, _ = optax.adamw(0.1).update(shared, optax.adamw(0.1).init(shared), shared)
    moved = merge(optax.apply_updates(shared, updates), own)
    assert jax.tree.structure(moved) == jax.tree.structure(toy.params())


@pytest.mark.parametrize("pattern", ["normal", "Normalisation", "block_2", "kernel/classifier"])
def test_pattern_without_a_leaf_is_refused_with_the_names_there_are(pattern):
    with pytest.raises(UserError) as error:
        split(CNN, ("classifier", pattern))
    assert pattern in str(error.value)
    assert "block_0, block_1, classifier, convolution, kernel, normalisation" in str(
        error.value
    ).replace("bias, ", "")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("patterns", [("*",), ("w", "b")])
def test_patterns_that_mean_all_leaves_are_refused(patterns):
    with pytest.raises(UserError, match="to leave something"):
        split(toy.params(), patterns)
