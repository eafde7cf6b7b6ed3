import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.client import augmentation, losses
from fedjax_med.experiment.config import Augment

KEY = jax.random.key(1)


def test_balanced_weights_of_known_counts():
    weights = losses.class_balanced_weights(jnp.array([1, 3, 0]), 0.5)
    raw = np.array([1 / 1.0, 1 / 1.75])  # effective numbers: 1 and 1 + 1/2 + 1/4
    expected = raw * 4 / (raw @ np.array([1, 3]))
    np.testing.assert_allclose(weights, [*expected, 0.0], rtol=1e-5)


def test_balance_zero_weighs_all_the_same_and_towards_one_by_inverse_frequency():
    counts = jnp.array([10, 30, 60])
    np.testing.assert_allclose(losses.class_balanced_weights(counts, 0.0), 1.0, rtol=1e-6)
    weights = losses.class_balanced_weights(counts, 1 - 1e-7)
    np.testing.assert_allclose(weights * counts, np.full(3, 100 / 3), rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_weights_have_mean_one_over_the_examples(beta):
    counts = jnp.array([7, 77, 462])
    weights = losses.class_balanced_weights(counts, beta)
    np.testing.assert_allclose(jnp.sum(weights * counts) / jnp.sum(counts), 1.0, rtol=1e-5)


def test_gradient_is_that_of_the_mean_over_real_examples():
    examples = toy.examples(6)
    padded = toy.pad(examples, 3)
    gradient, sums = toy.grad_fn()(toy.params(), padded, KEY)
    expected, plain = toy.grad_fn()(toy.params(), examples, KEY)
    toy.assert_close(gradient, expected)
    toy.assert_close(sums, plain)

    def mean(params):
        logits = toy.model().apply(params, augmentation.normalise(examples.image), None)
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(log_p[jnp.arange(6), examples.label])

    toy.assert_close(expected, jax.grad(mean)(toy.params()))


def test_padding_alone_has_gradient_zero():
    examples = toy.examples(4, mask=np.zeros(4, bool))
    gradient, sums = toy.grad_fn()(toy.params(), examples, KEY)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
    assert sums["count"] == 0


def test_class_weights_scale_the_gradient_of_their_class():
    examples = toy.examples(5)
    examples = examples._replace(label=jnp.full(5, 2, jnp.int32))
    gradient, sums = toy.grad_fn(weights=jnp.array([1.0, 1.0, 3.0]))(toy.params(), examples, KEY)
    expected, plain = toy.grad_fn()(toy.params(), examples, KEY)
    toy.assert_close(gradient, jax.tree.map(lambda leaf: 3 * leaf, expected))
    toy.assert_close(sums, plain)  # the reported loss has no weights


def test_label_smoothing_moves_the_optimum_to_the_smoothed_target():
    grad_fn = losses.cross_entropy(
        toy.model(), augmentation.build(toy.STILL), jnp.ones(3), label_smoothing=0.3
    )
    logits = jnp.log(jnp.array([0.8, 0.1, 0.1]))  # 0.7 + 0.1 for the label, 0.1 for the others
    params = {"w": jnp.zeros_like(toy.params()["w"]), "b": logits}
    examples = toy.examples(4)._replace(label=jnp.zeros(4, jnp.int32))
    gradient, _ = grad_fn(params, examples, KEY)
    np.testing.assert_allclose(gradient["b"], 0.0, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 9])
def test_the_gradient_in_parts_is_that_of_the_whole_batch(micro_batch):
    batch = toy.examples(10, mask=[True] * 7 + [False] * 3)
    weights = jnp.array([1.0, 2.0, 0.5])
    whole, parts = (
        losses.cross_entropy(toy.model(), augmentation.build(Augment()), weights, 0.1, size)
        for size in (0, micro_batch)
    )
    toy.assert_close(parts(toy.params(), batch, KEY), whole(toy.params(), batch, KEY))


@pytest.mark.slow
def test_padding_changes_no_bit_of_the_gradient_in_parts():
    batch = toy.examples(7)
    gradient = losses.cross_entropy(
        toy.model(), augmentation.build(Augment()), jnp.ones(toy.CLASSES), micro_batch=4
    )
    expected = gradient(toy.params(), batch, KEY)
    for more in (1, 6):
        toy.assert_same_bits(gradient(toy.params(), toy.pad(batch, more), KEY), expected)


def test_each_part_drops_its_own_features():
    def apply(params, images, key):
        return toy.model().apply(params, images, key) + jax.random.normal(key, (1, toy.CLASSES))

    gradient = losses.cross_entropy(
        toy.model()._replace(apply=apply),
        augmentation.build(toy.STILL),
        jnp.ones(toy.CLASSES),
        micro_batch=1,
    )

    def mean_loss(copies):
        batch = jax.tree.map(lambda leaf: jnp.repeat(leaf, copies, axis=0), toy.examples(1))
        return float(gradient(toy.params(), batch, KEY)[1]["loss"]) / copies

    assert mean_loss(2) != pytest.approx(mean_loss(3), rel=1e-3)


def test_logit_adjustment_is_learned_around():
    """Where the logits are those of the classes alone, the loss has them with their shares."""
    prior = losses.log_prior([1, 2, 7])
    np.testing.assert_allclose(np.exp(prior), [0.1, 0.2, 0.7], rtol=1e-6)
    grad_fn = losses.cross_entropy(
        toy.model(), augmentation.build(toy.STILL), jnp.ones(3), adjustment=prior
    )
    params = {"w": jnp.zeros_like(toy.params()["w"]), "b": jnp.zeros(3)}
    examples = toy.examples(10)._replace(label=jnp.array([0, 1, 1, *[2] * 7], jnp.int32))
    gradient, sums = grad_fn(params, examples, KEY)
    np.testing.assert_allclose(gradient["b"], 0.0, atol=1e-6)
    np.testing.assert_allclose(sums["loss"], 10 * np.log(3), rtol=1e-6)  # reported as it is


def test_a_class_without_examples_is_learned_to_be_none():
    """A hospital that has never seen a class trains its logit down instead of leaving it alone."""
    prior = losses.log_prior([0, 2, 6])
    np.testing.assert_allclose(np.exp(prior), [1, 0.25, 0.75], rtol=1e-6)
    grad_fn = losses.cross_entropy(
        toy.model(), augmentation.build(toy.STILL), jnp.ones(3), adjustment=prior
    )
    examples = toy.examples(8)._replace(label=jnp.array([1, 1, *[2] * 6], jnp.int32))
    gradient, _ = grad_fn(jax.tree.map(jnp.zeros_like, toy.params()), examples, KEY)
    assert gradient["b"][0] > 0.3
