"""Curves of a class, by hand and against scikit-learn; the bins of a reliability diagram."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fedjax_med.evaluation import curves, metrics

# Two of the class, three others; 0.5 is shared.
SCORES = np.array([0.9, 0.5, 0.5, 0.2, 0.1])
POSITIVE = np.array([True, True, False, False, False])


def drawn(count=200, levels=20, seed=0):
    """Scores with many ties."""
    rng = np.random.default_rng(seed)
    positive = rng.uniform(size=count) < 0.3
    scores = np.round(rng.beta(2, 3, count) + 0.2 * positive, 2).clip(0, 1)
    return np.round(scores * levels) / levels, positive


def test_the_roc_curve_by_hand():
    found = curves.roc(SCORES, POSITIVE)
    np.testing.assert_allclose(found.x, [0, 0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found.y, [0, 1 / 2, 1, 1, 1])


def test_the_precision_recall_curve_by_hand():
    found = curves.precision_recall(SCORES, POSITIVE)
    np.testing.assert_allclose(found.x, [1 / 2, 1, 1, 1])
    np.testing.assert_allclose(found.y, [1, 2 / 3, 2 / 4, 2 / 5])
    assert curves.average_precision(found) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_curves_are_those_of_scikit_learn(seed):
    scores, positive = drawn(seed=seed)
    false, true, _ = sklearn_metrics.roc_curve(positive, scores, drop_intermediate=False)
    found = curves.roc(scores, positive)
    np.testing.assert_allclose(found.x, false)
    np.testing.assert_allclose(found.y, true)
    precision, recall, _ = sklearn_metrics.precision_recall_curve(positive, scores)
    found = curves.precision_recall(scores, positive)
    np.testing.assert_allclose(found.x, recall[:-1][::-1])
    np.testing.assert_allclose(found.y, precision[:-1][::-1])
    expected = sklearn_metrics.average_precision_score(positive, scores)
    assert curves.average_precision(found) == pytest.approx(expected)


def test_the_area_below_the_roc_curve_is_the_auroc():
    scores, positive = drawn(seed=5)
    both = np.stack([1 - scores, scores], axis=1)
    found = curves.roc(scores, positive)
    expected = metrics.auroc(both, positive.astype(np.int64))[1]
    assert np.trapezoid(found.y, found.x) == pytest.approx(expected)


def test_the_net_benefit_by_hand():
    # At 0.2: TP 2, FP 2, and 2/5 - 2/5 * 0.25; at 0.5 itself, both of 0.5 are called.
    found = curves.net_benefit(SCORES, POSITIVE, [0.2, 0.5, 0.6])
    np.testing.assert_allclose(found, [2 / 5 - 2 / 5 / 4, 2 / 5 - 1 / 5, 1 / 5])


def test_treating_all_is_a_model_that_is_always_certain():
    thresholds = np.array([0.1, 0.25, 0.4, 0.8])
    expected = 2 / 5 - 3 / 5 * thresholds / (1 - thresholds)
    np.testing.assert_allclose(curves.treat_all(POSITIVE, thresholds), expected, atol=1e-15)
    assert curves.treat_all(POSITIVE, [2 / 5])[0] == pytest.approx(0)  # the share of the class


def test_the_bins_make_up_the_expected_calibration_error():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet([1, 1, 1], 80)
    labels = rng.integers(0, 3, 80)
    bins = curves.reliability(probabilities, labels)
    error = sum(one.n * abs(one.confidence - one.accuracy) for one in bins) / 80
    assert error == pytest.approx(metrics.expected_calibration_error(probabilities, labels))
    assert sum(one.n for one in bins) == 80


def test_a_bin_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.92, 0.08], [0.4, 0.6]])
    found = curves.reliability(probabilities, np.array([0, 1, 1]), num_bins=10)
    # 0.9 belongs to the bin that ends there, 0.92 to the next one.
    assert [tuple(one) for one in found] == [
        pytest.approx((1, 0.6, 1.0)),
        pytest.approx((1, 0.9, 1.0)),
        pytest.approx((1, 0.92, 0.0)),
    ]
