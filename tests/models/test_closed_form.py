"""The discriminant from the clients' sums is that of all images together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fedjax_med.client.optimizers import leave_fixed
from fedjax_med.core.model import Model
from fedjax_med.data.client_data import ClientData
from fedjax_med.data.dataset import Split
from fedjax_med.execution.statistics import at_site, take_statistics
from fedjax_med.models import _discriminant, _sketch, _standardise

KEY = jax.random.key(0)
CLASSES, SIZE, COUNT, VIEWS = 3, 12, 60, 2
CLIENTS = (np.arange(0, 7), np.arange(7, 45), np.array([], np.int64), np.arange(45, 60))


def split_of(values, label):
    """Features [N, V, D] as a split."""
    names = np.array([f"{number}.jpg" for number in range(len(label))])
    hashes, client = np.zeros((len(label), 32), np.uint8), np.full(len(label), -1, np.int32)
    image = values[:, :, None, None].astype(np.float32)
    return Split(image, label.astype(np.int32), names, names, hashes, client)


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    label = rng.permutation(np.repeat(np.arange(CLASSES), (30, 20, 10)))
    mixed = rng.normal(size=(COUNT, VIEWS, SIZE)) @ rng.normal(size=(SIZE, SIZE))
    return split_of(5 + mixed + 2 * rng.normal(size=(CLASSES, 1, SIZE))[label], label)


def beside_zeros(factor=1.0, shrinkage=0.2, width=0, views=0, size=SIZE):
    """A model whose own logits are 0 in evaluation and 7 in training, with a discriminant."""

    def apply(params, images, key):
        return jnp.full((len(images), CLASSES), 0.0 if key is None else 7.0)

    plain = Model(
        lambda key, shape: {_standardise.NAME: _standardise.init(size)},
        apply,
        statistics=_standardise.STATISTICS,
        fixed=(_standardise.NAME,),
    )
    sums = _discriminant.statistics(size, CLASSES, shrinkage, width, views)
    return _discriminant.beside(plain, factor, size, CLASSES, sums)


def fitted(model, split, clients=CLIENTS):
    return take_statistics(model, model.init(KEY, (1, 1, SIZE)), ClientData(split, clients))


def standardised(split, views=VIEWS):
    """The views as rows, standardised by all of them, and their labels."""
    every = split.image.reshape(-1, split.image.shape[-1]).astype(np.float64)
    rows = split.image[:, :views].reshape(-1, every.shape[1])
    return (rows - every.mean(0)) / every.std(0), np.repeat(split.label, views)


def log_shares(scores):
    return np.asarray(jax.nn.log_softmax(jnp.asarray(scores)))


def log_posterior(rows, label, shrinkage):
    """By the Gaussian densities of SciPy, with one shrunk covariance and equal priors."""
    present = np.unique(label)
    means = {one: rows[label == one].mean(0) for one in present}
    within = np.cov(rows - np.stack([means[one] for one in label]), rowvar=False, bias=True)
    identity = np.eye(len(within)) * np.trace(within) / len(within)
    shrunk = (1 - shrinkage) * within + shrinkage * identity
    return log_shares(
        np.stack([stats.multivariate_normal(means[one], shrunk).logpdf(rows) for one in present], 1)
    )


def evaluated(model, params, split, views=VIEWS):
    images = split.image[:, :views].reshape(-1, 1, 1, split.image.shape[-1])
    return model.apply(params, images, None)


@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_scores_are_the_logarithms_of_gaussian_densities(split, shrinkage):
    model = beside_zeros(shrinkage=shrinkage)
    found = evaluated(model, fitted(model, split), split)
    expected = log_posterior(*standardised(split), shrinkage)
    np.testing.assert_allclose(log_shares(found), expected, atol=1e-4)


def test_only_the_first_views_count_where_it_is_asked(split):
    """The values are standardised by all views."""
    model = beside_zeros(views=1)
    found = evaluated(model, fitted(model, split), split, views=1)
    expected = log_posterior(*standardised(split, views=1), 0.2)
    np.testing.assert_allclose(log_shares(found), expected, atol=1e-4)


def test_clients_apart_give_what_they_give_in_one_place(split):
    model = beside_zeros()
    apart, together = (fitted(model, split, each) for each in (CLIENTS, (np.arange(COUNT),)))
    for one, other in zip(*map(jax.tree.leaves, (apart, together)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_training_sees_the_models_own_logits_and_evaluation_both(split):
    images = split.image[:, 0]
    once, twice = beside_zeros(factor=1.0), beside_zeros(factor=2.0)
    params = fitted(once, split)
    np.testing.assert_array_equal(once.apply(params, images, KEY), np.full((COUNT, CLASSES), 7.0))
    one, two = (model.apply(params, images, None) for model in (once, twice))
    np.testing.assert_allclose(two, 2 * np.asarray(one), rtol=1e-6)
    assert np.ptp(one) > 1


def test_weight_decay_leaves_it_as_it_is(split):
    model = beside_zeros()
    params = fitted(model, split)
    optimizer = leave_fixed(optax.adamw(0.1, weight_decay=0.5), model.fixed)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert np.any(params[_discriminant.NAME]["kernel"] != 0)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(updates))


def test_a_class_without_images_is_finite_and_never_the_most_probable(split):
    some = split.take(split.label != 1)
    model = beside_zeros()
    params = fitted(model, some, (np.arange(0, 9), np.arange(9, some.num_examples)))
    found = np.asarray(evaluated(model, params, split))
    assert np.isfinite(found).all()
    assert not (found.argmax(axis=1) == 1).any()
    rows, label = standardised(some)
    kept = np.asarray(evaluated(model, params, some))[:, [0, 2]]
    np.testing.assert_allclose(log_shares(kept), log_posterior(rows, label, 0.2), atol=1e-4)


def test_images_that_are_all_alike_give_finite_scores():
    model = beside_zeros()
    split = split_of(np.ones((6, VIEWS, SIZE)), np.arange(6) % CLASSES)
    params = fitted(model, split, (np.arange(6),))
    assert np.isfinite(np.asarray(evaluated(model, params, split))).all()


def test_a_site_to_be_predicted_takes_no_labels_of_its_own(split):
    model = beside_zeros()._replace(own_statistics=0.5)
    params = fitted(model, split)
    elsewhere = split._replace(image=split.image + 3, label=np.full(COUNT, -1, np.int32))
    found = at_site(model, params, elsewhere)
    assert found[_discriminant.NAME] is params[_discriminant.NAME]
    shift = found[_standardise.NAME]["mean"] - params[_standardise.NAME]["mean"]
    np.testing.assert_allclose(shift, np.full(SIZE, 1.5), rtol=1e-4)


# --- the projection ----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 6, 11])
def test_a_kernel_taken_back_scores_values_as_it_scores_their_projection(width):
    project, back = _sketch.build(SIZE, width)
    rng = np.random.default_rng(1)
    values, kernel = rng.normal(size=(4, SIZE)), rng.normal(size=(width, CLASSES))
    projected = project(jnp.asarray(values, jnp.float32))
    assert projected.shape == (4, width)
    np.testing.assert_allclose(projected @ kernel, values @ back(kernel), atol=1e-5)


def test_each_value_is_in_one_sum_once():
    project, _ = _sketch.build(SIZE, 5)
    of_each = np.asarray(project(jnp.eye(SIZE)))
    assert set(np.abs(of_each).sum(axis=1)) == {1.0}
    assert {2, 3} == set(np.abs(of_each).sum(axis=0).astype(int))  # 12 values in 5 sums
    assert {-1.0, 1.0} == set(of_each[of_each != 0])


@pytest.mark.parametrize("width", [SIZE, SIZE + 1])
def test_as_many_sums_as_values_leave_them_as_they_are(width):
    project, back = _sketch.build(SIZE, width)
    values = np.arange(2.0 * SIZE).reshape(2, SIZE)
    assert project(values) is values
    np.testing.assert_array_equal(back(values.T), values.T)


def test_inner_products_are_kept_on_average():
    """Of random vectors of 4,000 values in 1,000 sums; the deviation is about 1 / sqrt(1,000)."""
    project, _ = _sketch.build(4000, 1000)
    one, two = np.random.default_rng(2).normal(size=(2, 50, 4000)).astype(np.float32)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    error = (np.sum(project(one) * project(two), 1) - np.sum(one * two, 1)) / norms
    assert abs(error.mean()) < 0.02
    assert 0.02 < error.std() < 0.05


def test_a_projected_discriminant_is_that_of_the_projected_values(split):
    model = beside_zeros(width=5)
    found = evaluated(model, fitted(model, split), split)
    rows, label = standardised(split)
    projected = np.asarray(_sketch.build(SIZE, 5)[0](jnp.asarray(rows, jnp.float32)), np.float64)
    np.testing.assert_allclose(log_shares(found), log_posterior(projected, label, 0.2), atol=1e-4)
