import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from fedjax_med.client import losses
from fedjax_med.errors import UserError
from fedjax_med.evaluation import metrics, per_client


def _problem(seed, num_examples=200, classes=(0, 1, 2, 4), num_classes=5, levels=None):
    """Probabilities a little better than chance; few `levels` make many ties."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, size=num_examples)
    logits = generator.normal(size=(num_examples, num_classes))
    logits[np.arange(num_examples), labels] += 1.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if levels is not None:
        probabilities = generator.multinomial(levels, probabilities) / levels
    return probabilities, labels


def _names(num_classes):
    return [f"class {k}" for k in range(num_classes)]


# Smooth and tied scores, all classes and missing ones.
PROBLEMS = [
    _problem(0, classes=range(5)),
    _problem(1, classes=range(5), levels=8),
    _problem(2),
    _problem(3, levels=8),
    _problem(4, num_examples=12, classes=(1, 3)),
    _problem(5, classes=(0, 1), num_classes=2),
]
problems = pytest.mark.parametrize(("probabilities", "labels"), PROBLEMS)


def test_counts_of_known_logits():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]]))
    sums = losses.counts(logits, jnp.array([1, 1, 0]), jnp.array([True, True, False]))
    assert sums["count"] == 2
    assert sums["correct"] == 1
    np.testing.assert_allclose(sums["loss"], -np.log(0.25) - np.log(0.8), rtol=1e-6)
    assert all(value.dtype == jnp.float32 and value.shape == () for value in sums.values())


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf])
def test_padding_never_counts_whatever_its_logits_and_label(junk):
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1], np.int32)
    padded_logits = np.concatenate([logits, np.full((2, 3), junk, np.float32)])
    padded_labels = np.concatenate([labels, np.array([-1, 99], np.int32)])
    mask = np.arange(6) < 4
    real = losses.counts(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(4, bool))
    padded = jax.jit(losses.counts)(padded_logits, padded_labels, mask)
    for key in real:
        np.testing.assert_allclose(padded[key], real[key], rtol=1e-6)


def test_padding_with_nan_leaves_the_gradient_finite():
    logits = jnp.array([[1.0, 2.0], [jnp.nan, jnp.nan]])
    mask = jnp.array([True, False])
    gradient = jax.grad(lambda x: losses.counts(x, jnp.array([0, 0]), mask)["loss"])(logits)
    assert np.isfinite(gradient).all()
    assert (gradient[1] == 0).all()


def test_counts_of_two_batches_add_up_to_those_of_both():
    generator = np.random.default_rng(1)
    logits = jnp.asarray(generator.normal(size=(10, 3)))
    labels = jnp.asarray(generator.integers(3, size=10))
    mask = jnp.asarray(generator.random(10) < 0.7)
    both = losses.counts(logits, labels, mask)
    first = losses.counts(logits[:4], labels[:4], mask[:4])
    second = losses.counts(logits[4:], labels[4:], mask[4:])
    for key in both:
        np.testing.assert_allclose(first[key] + second[key], both[key], rtol=1e-6)


@problems
def test_accuracies_and_f1_agree_with_scikit_learn(probabilities, labels):
    predicted, present = probabilities.argmax(axis=1), np.unique(labels)
    recall = sklearn.metrics.recall_score(labels, predicted, labels=present, average="macro")
    f1 = sklearn.metrics.f1_score(
        labels, predicted, labels=present, average="macro", zero_division=0
    )
    assert metrics.accuracy(probabilities, labels) == pytest.approx(
        sklearn.metrics.accuracy_score(labels, predicted)
    )
    assert metrics.balanced_accuracy(probabilities, labels) == pytest.approx(recall)
    assert metrics.macro_f1(probabilities, labels) == pytest.approx(f1)


def test_balanced_accuracy_agrees_with_scikit_learn():
    probabilities, labels = PROBLEMS[0]
    expected = sklearn.metrics.balanced_accuracy_score(labels, probabilities.argmax(axis=1))
    assert metrics.balanced_accuracy(probabilities, labels) == pytest.approx(expected)


@problems
def test_auroc_agrees_with_scikit_learn_class_by_class(probabilities, labels):
    present = np.unique(labels)
    expected = [sklearn.metrics.roc_auc_score(labels == k, probabilities[:, k]) for k in present]
    areas = metrics.auroc(probabilities, labels)
    np.testing.assert_allclose(areas[present], expected)
    assert np.isnan(np.delete(areas, present)).all()
    assert metrics.macro_auroc(probabilities, labels) == pytest.approx(np.mean(expected))


def test_macro_auroc_agrees_with_scikit_learn():
    probabilities, labels = PROBLEMS[1]
    expected = sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr")
    assert metrics.macro_auroc(probabilities, labels) == pytest.approx(expected)


@problems
def test_proper_scores_and_confusion_matrix_agree_with_scikit_learn(probabilities, labels):
    classes = list(range(probabilities.shape[1]))
    log_loss = sklearn.metrics.log_loss(labels, probabilities, labels=classes)
    brier = sklearn.metrics.brier_score_loss(
        labels, probabilities, labels=classes, scale_by_half=False
    )
    matrix = sklearn.metrics.confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes)
    assert metrics.log_loss(probabilities, labels) == pytest.approx(log_loss)
    assert metrics.brier(probabilities, labels) == pytest.approx(brier)
    np.testing.assert_array_equal(metrics.confusion_matrix(probabilities, labels), matrix)


@problems
def test_rates_agree_with_scikit_learn_class_by_class(probabilities, labels):
    rates = metrics.class_rates(probabilities, labels)
    for k in np.unique(labels):
        true, predicted = labels == k, probabilities.argmax(axis=1) == k
        specificity = sklearn.metrics.recall_score(~true, ~predicted)
        assert rates["sensitivity"][k] == pytest.approx(
            sklearn.metrics.recall_score(true, predicted)
        )
        assert rates["specificity"][k] == pytest.approx(specificity)
        if predicted.any():
            precision = sklearn.metrics.precision_score(true, predicted)
            assert rates["precision"][k] == pytest.approx(precision)


def test_calibration_error_computed_by_hand():
    # Of five bins, (0.8, 1] holds the confidence 0.9, (0.6, 0.8] holds 0.8 and (0.4, 0.6] the
    # two of 0.6: an upper edge belongs to the bin below it.
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    labels = np.array([1, 1, 0, 0])
    expected = (1 * abs(0 - 0.9) + 1 * abs(1 - 0.8) + 2 * abs(0.5 - 0.6)) / 4
    value = metrics.expected_calibration_error(probabilities, labels, num_bins=5)
    assert value == pytest.approx(expected)


def test_calibration_error_bins_the_examples():
    # In one bin the errors cancel: accuracy 0.5, confidence 0.75.
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5]])
    labels = np.array([1, 0])
    one = metrics.expected_calibration_error(probabilities, labels, num_bins=1)
    many = metrics.expected_calibration_error(probabilities, labels)
    assert one == pytest.approx(0.25)
    assert many == pytest.approx((1.0 + 0.5) / 2)


HEADLINES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "macro_auroc",
    "ece",
    "brier",
    "log_loss",
)


def test_summary_holds_the_metrics_and_their_parts():
    probabilities, labels = PROBLEMS[0]
    summary = metrics.summarize(probabilities, labels, _names(5))
    functions = {"ece": metrics.expected_calibration_error}
    for name in HEADLINES:
        metric = functions.get(name) or getattr(metrics, name)
        assert summary[name] == float(metric(probabilities, labels))
    assert summary["n"] == 200
    assert np.sum(summary["confusion_matrix"]) == 200
    row = summary["per_class"]["class 2"]
    rates = {"sensitivity", "specificity", "auroc", "precision", "f1"}
    assert set(row) == rates | {"support", "sensitivity_at_90_specificity", "intervals"}
    assert row["support"] == np.sum(labels == 2)
    assert row["auroc"] == float(metrics.auroc(probabilities, labels)[2])
    assert summary["absent_classes"] == []


def test_absent_class_is_listed_with_null_rates_and_left_out_of_the_means():
    probabilities, labels = PROBLEMS[2]
    summary = metrics.summarize(probabilities, labels, _names(5))
    row = summary["per_class"]["class 3"]
    assert summary["absent_classes"] == ["class 3"]
    assert (row["support"], row["sensitivity"], row["auroc"]) == (0, None, None)
    assert row["specificity"] is not None
    present = [v["sensitivity"] for v in summary["per_class"].values() if v["support"]]
    assert len(present) == 4
    assert summary["balanced_accuracy"] == pytest.approx(np.mean(present))


def test_summary_is_json_even_where_nothing_is_defined():
    summary = metrics.summarize([[0.7, 0.3]] * 3, [0, 0, 0], ["a", "b"])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["macro_auroc"] is None
    assert summary["intervals"]["macro_auroc"] == [None, None]
    assert summary["balanced_accuracy"] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_intervals_contain_the_estimate_and_shrink_with_more_examples(seed):
    few = metrics.summarize(*_problem(seed, 100, range(5)), _names(5))
    many = metrics.summarize(*_problem(seed, 1600, range(5)), _names(5))
    for name in HEADLINES:
        low, high = few["intervals"][name]
        narrow_low, narrow_high = many["intervals"][name]
        assert low < high
        # A quarter as wide in theory.
        assert narrow_high - narrow_low < 0.6 * (high - low)
        assert low <= few[name] <= high
        assert narrow_low <= many[name] <= narrow_high


def test_interval_of_accuracy_is_that_of_the_binomial():
    labels = np.arange(400) % 2
    guess = labels ^ (np.arange(400) >= 300)  # three of four are right, in both classes
    probabilities = np.eye(2)[guess] * 0.8 + 0.1
    summary = metrics.summarize(probabilities, labels, ["a", "b"])
    exact = scipy.stats.binomtest(300, 400).proportion_ci(method="exact")
    np.testing.assert_allclose(summary["intervals"]["accuracy"], exact)


def test_rates_of_a_class_have_exact_intervals_and_few_images_have_none():
    labels = np.repeat([0, 1, 2], [10, 5, 4])
    guess = labels.copy()
    guess[10] = 0
    summary = metrics.summarize(np.eye(3)[guess] * 0.7 + 0.1, labels, ["a", "b", "c"])
    first, second, third = (row["intervals"] for row in summary["per_class"].values())
    for found, hits, size in (
        (first["sensitivity"], 10, 10),  # all right is not certain
        (second["sensitivity"], 4, 5),
        (first["specificity"], 8, 9),
        (third["specificity"], 15, 15),
    ):
        exact = scipy.stats.binomtest(hits, size).proportion_ci(method="exact")
        np.testing.assert_allclose(found, exact)
    assert (third["sensitivity"], third["auroc"]) == (None, None)
    assert 0 < first["auroc"][0] < summary["per_class"]["a"]["auroc"] < first["auroc"][1] <= 1


def test_all_right_of_few_examples_is_no_certainty():
    labels = np.arange(30) % 3
    summary = metrics.summarize(np.eye(3)[labels], labels, ["a", "b", "c"])
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"):
        low, high = summary["intervals"][name]
        assert 0.8 < low < 0.95, name
        assert high == 1, name
    for name in ("ece", "brier", "log_loss"):
        low, high = summary["intervals"][name]
        assert low == 0 < 0.01 < high, name


def test_hundred_classes_are_summarized_in_a_second():
    """A bootstrap of them took 18 seconds."""
    problem = _problem(0, 10_000, range(100), num_classes=100)
    start = time.process_time()
    metrics.summarize(*problem, _names(100))
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 2)), [], "at least one example"),
        ([[np.nan, 1.0], [0.5, 0.5]], [0, 1], "NaN or infinity for 1 of 2"),
        ([[np.inf, 0.0]], [0], "finite"),
        ([[0.5, 0.5]], [2], "2 classes"),
        ([[0.5, 0.5]], [0, 1], r"\(1, 2\) and \(2,\)"),
        ([[3.0, -2.0]], [0], "apply softmax"),
        ([[1.0, 1.0]], [0], "apply softmax"),
        ([[0.2, 0.3, 0.5]], [0], "expected 3 class names, got 2"),
    ],
)
def test_impossible_input_is_refused_in_one_line(probabilities, labels, message):
    with pytest.raises(UserError, match=message) as error:
        metrics.summarize(probabilities, labels, ["a", "b"])
    assert "\n" not in str(error.value)


def test_validation_pools_the_examples_and_lists_the_clients():
    probabilities, labels = _problem(0, 30, range(3), num_classes=3)
    probabilities, labels = probabilities[:16], labels[:16]
    result = per_client.validation_metrics(probabilities, labels, [6, 10, 0])
    assert result["n"] == 16
    assert result["accuracy"] == float(metrics.accuracy(probabilities, labels))
    assert result["balanced_accuracy"] == float(metrics.balanced_accuracy(probabilities, labels))
    assert result["loss"] == float(metrics.log_loss(probabilities, labels))
    clients = result["clients"]
    assert clients["n"] == [6, 10, 0]
    assert clients["accuracy"][1] == float(metrics.accuracy(probabilities[6:], labels[6:]))
    assert clients["loss"][0] == float(metrics.log_loss(probabilities[:6], labels[:6]))
    assert [clients[key][2] for key in ("loss", "accuracy", "balanced_accuracy")] == [None] * 3
    json.dumps(result, allow_nan=False)


def test_validation_without_any_examples_is_undefined_not_an_error():
    result = per_client.validation_metrics(np.zeros((0, 3)), np.zeros(0), [0, 0])
    assert (result["n"], result["loss"], result["accuracy"]) == (0, None, None)
    assert result["clients"]["n"] == [0, 0]


def test_diverged_validation_names_the_client():
    probabilities = np.full((6, 2), 0.5)
    probabilities[3, 0] = np.nan
    with pytest.raises(UserError, match="client 1: expected finite"):
        per_client.validation_metrics(probabilities, np.zeros(6, int), [3, 3])


def test_sensitivity_at_a_specificity_is_a_point_of_the_roc_curve():
    rng = np.random.default_rng(0)
    for _ in range(20):
        probabilities = rng.dirichlet(np.ones(3), 50).round(1)  # with ties
        labels = rng.integers(0, 3, 50)
        for k, found in enumerate(metrics.sensitivity_at(0.9, probabilities, labels)):
            false, true, _ = sklearn.metrics.roc_curve(
                labels == k, probabilities[:, k], drop_intermediate=False
            )
            assert found == true[false <= 0.1 + 1e-9].max()
    one_class = metrics.sensitivity_at(0.9, np.eye(2)[[0, 0]], np.array([0, 0]))
    assert np.isnan(one_class).all()


def test_absent_classes_are_those_of_each_client():
    found = per_client.absent_classes([0, 2, 2, 1], [2, 2, 0], ["a", "b", "c"])
    assert found == [["b"], ["a"], []]
