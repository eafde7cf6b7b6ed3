import numpy as np
import pytest

from fedjax_med.evaluation import calibration, metrics


def test_scaled_probabilities_are_the_softmax_of_the_logits_over_the_temperature():
    logits = np.array([[1.0, -2.0, 0.5], [3.0, 3.0, -1.0]])
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibration.scale(softmax, 2.0), expected, rtol=1e-12)
    np.testing.assert_allclose(calibration.scale(softmax, 1.0), softmax, rtol=1e-12)
    sure = calibration.scale(np.array([[1.0, 0.0]]), 3.0)
    assert np.isfinite(sure).all()


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_temperature_that_was_applied_is_found(true):
    rng = np.random.default_rng(0)
    honest = rng.dirichlet(np.ones(4), 20_000)
    labels = np.array([rng.choice(4, p=row) for row in honest])
    told = calibration.scale(honest, 1 / true)  # too sure by this factor
    assert calibration.temperature(told, labels) == pytest.approx(true, rel=0.05)
    before = metrics.expected_calibration_error(told, labels)
    after = metrics.expected_calibration_error(calibration.scale(told, true), labels)
    assert after < 0.02
    assert after <= before


def test_without_examples_the_temperature_is_one():
    assert calibration.temperature(np.empty((0, 3)), np.empty(0, np.int64)) == 1.0
