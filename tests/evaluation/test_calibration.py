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


def test_temperature_needs_only_the_sum_that_each_client_makes_of_its_own_examples(monkeypatch):
    probabilities, labels = _predictions(90, 1.8)
    sizes, seen = np.array([30, 0, 45, 15]), []
    sum_of = calibration.client_loss

    def spied(own, of_own, temperature):
        seen.append((own, of_own))
        return sum_of(own, of_own, temperature)

    monkeypatch.setattr(calibration, "client_loss", spied)
    found = calibration.temperature(probabilities, labels, sizes)
    for (own, of_own), start, size in zip(
        seen, (0, 30, 30, 75) * (len(seen) // 4), np.tile(sizes, len(seen) // 4), strict=True
    ):
        np.testing.assert_array_equal(own, probabilities[start : start + size])
        np.testing.assert_array_equal(of_own, labels[start : start + size])
    assert found == pytest.approx(calibration.temperature(probabilities, labels), rel=1e-6)


def _predictions(count, sure, seed=0):
    """Draw probabilities of `count` images over 4 classes, and labels that follow them."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(4, 0.4), count)
    labels = np.array([rng.choice(4, p=row) for row in honest])
    return calibration.scale(honest, 1 / sure), labels


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_few_predictions_leave_the_temperature_near_one(count):
    everyone = _predictions(4000, 1.0)
    before = metrics.log_loss(*everyone)
    for seed in range(40):
        few = _predictions(count, 1.0, seed + 1)
        temperature = calibration.temperature(*few)
        assert 0.6 < temperature < 1.7
        after = metrics.log_loss(calibration.scale(everyone[0], temperature), everyone[1])
        assert after < 1.15 * before


@pytest.mark.parametrize("count", [1, 7, 40, 400])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.999, 1.0])
def test_perfect_predictions_do_not_collapse_the_temperature(count, confidence):
    rest = (1 - confidence) / 3
    right = np.tile([confidence, rest, rest, rest], (count, 1))
    temperature = calibration.temperature(right, np.zeros(count, np.int64))
    assert temperature >= 1


@pytest.mark.parametrize("wrong", [0, 1, 9])
def test_few_errors_do_not_sharpen(wrong):
    rng = np.random.default_rng(3)
    sure = rng.uniform(0.4, 0.95, 200)
    told = np.stack([sure, *[(1 - sure) / 3] * 3], axis=1)
    told[:wrong] = 0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3
    labels = told.argmax(axis=1)
    labels[:wrong] = 1
    temperature = calibration.temperature(told, labels)
    assert 1 <= temperature < 1.5
    assert calibration.doubt(told, labels)
    elsewhere = np.where(np.arange(200) < 80, 1, 0)  # 40 % errors
    before = metrics.log_loss(told, elsewhere)
    assert metrics.log_loss(calibration.scale(told, temperature), elsewhere) <= before


def test_doubtful_predictions_may_still_lower_confidence():
    told = np.tile([0.9999, 0.0001], (60, 1))
    assert calibration.temperature(told, np.repeat([1, 0], [9, 51])) > 1.5


@pytest.mark.parametrize("true", [0.6, 2.0])
def test_hundreds_of_predictions_outweigh_the_prior(true):
    assert calibration.temperature(*_predictions(2000, true)) == pytest.approx(true, rel=0.1)


def test_too_few_or_perfect_predictions_are_said():
    told, labels = _predictions(400, 1.0)
    assert calibration.doubt(told, labels) == ""
    assert calibration.doubt(told[:7], labels[:7]).startswith("only 7 validation images,")
    assert calibration.doubt(told[:1], labels[:1]).startswith("only 1 validation image,")
    assert calibration.doubt(told[:0], labels[:0]) == "no validation images"
    perfect = calibration.doubt(told, told.argmax(axis=1))
    assert perfect == "all 400 validation images are predicted right"
    most = told.argmax(axis=1)
    for wrong, said in (
        (1, "1 of 400 validation images is"),
        (9, "9 of 400 validation images are"),
    ):
        mixed = np.where(np.arange(400) < wrong, (most + 1) % 4, most)
        told_of = calibration.doubt(told, mixed)
        assert told_of == f"only {said} predicted wrong, expected at least 10"
    assert calibration.doubt(told, np.where(np.arange(400) < 10, (most + 1) % 4, most)) == ""
