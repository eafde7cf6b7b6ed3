"""The discriminant of the audit beside scikit-learn's, and its folds."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fedjax_med.data.audit import discriminant


def drawn(size, width, classes=3, seed=0, apart=0.4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size)
    means = rng.normal(size=(classes, width)) * apart
    spread = rng.uniform(0.1, 5.0, width)
    return (rng.normal(size=(size, width)) + means[labels]) * spread + 7, labels


def standard(features):
    return (features - features.mean(axis=0)) / features.std(axis=0)


@pytest.mark.parametrize(("size", "width"), [(90, 7), (40, 120)])
@pytest.mark.parametrize("shrinkage", [0.1, 0.7, 1.0])
def test_scores_are_those_of_scikit_learn_with_equal_priors(size, width, shrinkage):
    features, labels = drawn(size, width)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    theirs.fit(standard(features), labels)
    theirs.intercept_ -= np.log(theirs.priors_)  # its covariance is pooled by the classes' sizes
    found = discriminant.fit(features, labels, 3, shrinkage).scores(features)
    found -= found.max(axis=1, keepdims=True)
    found = np.exp(found) / np.exp(found).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, theirs.predict_proba(standard(features)), atol=1e-9)


@pytest.mark.parametrize(("size", "width"), [(90, 7), (40, 120), (30, 30)])
def test_the_shrinkage_is_that_of_scikit_learn(size, width):
    centred = drawn(size, width)[0]
    centred -= centred.mean(axis=0)
    expected = ledoit_wolf_shrinkage(centred, assume_centered=True)
    for inner in (centred.T @ centred, centred @ centred.T):
        assert discriminant.ledoit_wolf(centred, inner) == pytest.approx(expected, rel=1e-9)
    assert 0.001 < expected < 1


def test_images_of_a_group_are_in_one_fold_and_classes_are_even():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 200)
    labels = (groups % 3).astype(int)
    fold = discriminant.fold_of(labels, groups, 5, seed=1)
    assert all(len(np.unique(fold[groups == one])) == 1 for one in np.unique(groups))
    for label in range(3):
        units = [
            len(np.unique(groups[(labels == label) & (fold == number)])) for number in range(5)
        ]
        assert np.ptp(units) <= 1
    assert (fold != discriminant.fold_of(labels, groups, 5, seed=2)).any()


def test_probabilities_of_a_fold_are_of_a_fit_to_the_others():
    features, labels = drawn(100, 5)
    groups = np.arange(100) // 2
    found = discriminant.out_of_fold(features, labels, groups, 4, seed=3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    fold = discriminant.fold_of(labels, groups, 4, seed=3)
    out = fold == 2
    features[out] = np.random.default_rng(9).normal(size=(out.sum(), 5))  # does not touch the fit
    scores = discriminant.fit(features[~out], labels[~out], 3).scores(features[~out])
    again = discriminant.out_of_fold(features, labels, groups, 4, seed=3)
    assert (again[out] != found[out]).any()
    assert np.isfinite(scores).all()
    expected = np.exp(discriminant.fit(features[~out], labels[~out], 3).scores(features[out]))
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(again[out], expected, atol=1e-12)


def test_copies_of_an_image_tell_nothing_of_each_other():
    """Pure noise with every image twice: known by its copy without groups, not with them."""
    rng = np.random.default_rng(0)
    once = rng.normal(size=(60, 200))
    features, labels = np.repeat(once, 2, axis=0), np.repeat(rng.integers(0, 2, 60), 2)

    def right(groups):
        found = discriminant.out_of_fold(features, labels, groups, 5, seed=0)
        return (found.argmax(axis=1) == labels).mean()

    assert right(np.arange(120)) > 0.8
    assert right(np.arange(120) // 2) < 0.7


def test_constant_features_and_classes_without_images_do_not_matter():
    features, labels = drawn(60, 4)
    more = np.concatenate([features, np.full((60, 2), 0.3)], axis=1)
    one, other = (discriminant.fit(each, labels, 3, 0.0).scores(each) for each in (features, more))
    np.testing.assert_allclose(one, other, atol=1e-9)
    wider = discriminant.out_of_fold_logs(features, labels * 2, np.arange(60), 5, 0)
    assert (wider[:, [1, 3]] == -np.inf).all()
    assert np.isfinite(discriminant.fit(np.ones((6, 3)), np.arange(6) % 2, 2).coefficients).all()
