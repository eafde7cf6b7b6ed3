"""Intervals: their arithmetic, and how often they cover the truth in worlds that are known.

The sizes are those of the real test set, as published and with its labels corrected.
"""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from fedjax_med.evaluation import estimates, intervals, metrics, placements
from fedjax_med.evaluation.intervals import Rates

SIZES = [[16] * 7 + [3] * 2, [16] * 6 + [19, 3]]
sizes = pytest.mark.parametrize("sizes", SIZES, ids=["published", "corrected"])
LEAST = 0.93
REPEAT = 2000
RECALLS = (0.5, 0.7, 0.85, 0.93, 0.97, 0.99, 1.0)


def covered(interval, truth):
    """How often the interval has the truth; none does not."""
    return np.mean((interval.low <= truth + 1e-12) & (truth - 1e-12 <= interval.high), axis=0)


@pytest.mark.parametrize(("hits", "size"), [(0, 7), (1, 7), (5, 16), (16, 16), (90, 118)])
def test_interval_of_a_proportion_is_that_of_clopper_and_pearson(hits, size):
    exact = scipy.stats.binomtest(hits, size).proportion_ci(method="exact")
    np.testing.assert_allclose(intervals.proportion(hits / size, size), exact)


def test_values_that_vary_less_than_zeros_and_ones_count_as_more():
    ones = intervals.rates(np.array([0.0, 1.0, 1.0, 1.0] * 4))
    halves = intervals.rates(np.array([0.5, 1.0, 1.0, 0.5] * 4))
    np.testing.assert_allclose([ones.mean, ones.size], [0.75, 16])
    assert (halves.mean, halves.size > 16) == (0.75, True)
    assert intervals.rates(np.ones(16)).size == 16  # nothing is known of how they vary


def test_independent_figures_add_as_variances_do_and_equal_ones_as_themselves():
    values, of = np.array([0.5, 0.5]), intervals.Interval(np.full(2, 0.4), np.full(2, 0.7))
    half = np.full(2, 0.5)
    low, high = intervals.composed(values, of, half)
    np.testing.assert_allclose([low, high], [0.5 - 0.1 / 2**0.5, 0.5 + 0.2 / 2**0.5])
    np.testing.assert_allclose(intervals.composed(values, of, half, np.ones((2, 1))), [0.4, 0.7])
    low, high = intervals.composed(values, of, np.array([1.0, -1.0]))
    np.testing.assert_allclose([low, high], [-np.hypot(0.1, 0.2), np.hypot(0.1, 0.2)])


@pytest.mark.parametrize("levels", [3, 1000])
def test_placements_are_ranks_among_the_others(levels):
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(levels, size=(60, 3)) / levels, rng.integers(3, size=60)
    found = placements.areas(scores, labels)
    for k in range(3):
        area = sklearn.metrics.roc_auc_score(labels == k, scores[:, k])
        assert found.area[k] == pytest.approx(area)
        mine, rest = scores[labels == k, k], scores[labels != k, k]
        wins = (mine[:, None] > rest).astype(float) + (mine[:, None] == rest) / 2
        influence = np.empty(60)
        influence[labels == k] = (wins.mean(axis=1) - area) / len(mine)
        influence[labels != k] = (wins.mean(axis=0) - area) / len(rest)
        np.testing.assert_allclose(found.influence[k], influence, atol=1e-12)


def test_influences_are_the_slopes_of_the_figures():
    """Counting an example a little more often moves a figure by its influence."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=80)
    logits = rng.normal(size=(80, 4)) + 1.5 * np.eye(4)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    many = 200
    for name, tolerance in (("balanced_accuracy", 1e-3), ("macro_f1", 1e-3), ("macro_auroc", 1e-3)):
        found = metrics.estimate(name, probabilities, labels)
        for i in (0, 7, 33):
            where = np.concatenate([np.tile(np.arange(80), many), [i]])
            moved = metrics.HEADLINES[name](probabilities[where], labels[where]) - found.value
            assert moved * many == pytest.approx(found.influence[i], abs=tolerance), name


def check(what, shares):
    """Compare the lowest of the shares with `LEAST`; `pytest -s` shows it."""
    print(f"\n{what}: covered in at least {np.min(shares):.3f}", end="")
    assert np.min(shares) >= LEAST, what


def worlds(sizes):
    """Recalls of the classes: equal, of the small classes alone, and any from 0.5 to 1."""
    small = np.array(sizes) < 10
    yield from (np.full(len(sizes), recall) for recall in RECALLS)
    for few in (0.5, 0.85, 0.95):
        yield from (np.where(small, few, rest) for rest in (0.995, 1.0))
    yield np.where(small, 1.0, 0.5)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        yield rng.uniform(0.5, 1, len(sizes))
        yield 1 - rng.beta(0.5, 2, len(sizes)) / 2


@pytest.mark.slow
@sizes
def test_accuracies_and_sensitivities_are_covered(sizes):
    rng, size = np.random.default_rng(0), np.array(sizes, float)
    found = {"balanced accuracy": [], "accuracy": [], "sensitivity of a class": []}
    for recall in worlds(sizes):
        mean = rng.binomial(sizes, recall, (REPEAT, len(sizes))) / size
        of = Rates(mean, size)
        balanced = intervals.mean_rate(of, of.variance.sum(axis=1) / len(sizes) ** 2)
        right, whole = ((share * size).sum(axis=-1) / size.sum() for share in (mean, recall))
        found["balanced accuracy"].append(covered(balanced, recall.mean()))
        found["accuracy"].append(covered(intervals.proportion(right, size.sum()), whole))
        found["sensitivity of a class"] += covered(
            intervals.proportion(mean, size), recall
        ).tolist()
    for what, shares in found.items():
        check(what, shares)


def predicted(rng, labels, recall, spread):
    """Predictions of which each class's share `recall` is right; `spread` makes scores differ."""
    classes = len(recall)
    right = rng.random(len(labels)) < recall[labels]
    guess = np.where(right, labels, (labels + rng.integers(1, classes, len(labels))) % classes)
    logits = 3.0 * np.eye(classes)[guess] + spread * rng.normal(size=(len(labels), classes))
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


SCORES = [(0.5, 0.0), (0.7, 1.0), (0.85, 0.0), (0.98, 0.0), (1.0, 1.5)]


@pytest.mark.slow
@pytest.mark.parametrize(("recall", "spread"), SCORES)
def test_areas_specificities_and_losses_are_covered(recall, spread):
    sizes, rng = SIZES[1], np.random.default_rng(0)
    labels, many = np.repeat(np.arange(len(sizes)), sizes), 300
    recalls = np.full(len(sizes), recall)
    population = np.repeat(labels, many)
    everyone = predicted(rng, population, recalls, spread)
    areas = placements.areas(everyone, population).area
    specificity = metrics.class_rates(everyone, population)["specificity"]
    headlines = ("macro_auroc", "macro_f1", "brier", "log_loss")
    truth = [metrics.HEADLINES[name](everyone, population) for name in headlines]
    hits = []
    for _ in range(REPEAT):
        p = predicted(rng, labels, recalls, spread)
        found = placements.areas(p, labels)
        of_areas = estimates.of_areas(found)
        others = len(labels) - np.array(sizes)
        true = intervals.proportion(metrics.class_rates(p, labels)["specificity"], others)
        macro = estimates.macro_auroc(p, labels, found)
        every = [macro, *(metrics.estimate(name, p, labels) for name in headlines[1:])]
        hits.append(
            [
                *((of_areas.low <= areas) & (areas <= of_areas.high))[:-1],  # the last has 3 images
                *((true.low <= specificity) & (specificity <= true.high)),
                *(
                    e.interval.low <= t <= e.interval.high
                    for e, t in zip(every, truth, strict=True)
                ),
            ]
        )
    shares = np.split(np.mean(hits, axis=0), [7, 15])
    for what, share in zip(("AUROC of a class", "specificity of a class"), shares, strict=False):
        check(what, share)
    for what, share in zip(headlines, shares[-1], strict=True):
        check(what, share)


DIFFERENCES = [(0, 0), (0.01, 0), (0.02, 0.02), (0.1, 0), (0.3, 0.1), (0.4, 0.4)]


@pytest.mark.slow
@sizes
@pytest.mark.parametrize("per_class", [True, False], ids=["balanced", "accuracy"])
def test_paired_differences_are_covered(sizes, per_class):
    rng, shares = np.random.default_rng(0), []
    groups = sizes if per_class else [sum(sizes)]
    for won, lost in DIFFERENCES:
        drawn = [rng.random((REPEAT, size)) for size in groups]
        values = [(one < won).astype(float) - (one > 1 - lost) for one in drawn]
        shares.append(covered(intervals.difference_of_rates(values), won - lost))
    for better, worse, seeds in ((0.7, 0.5, 3), (0.98, 0.95, 5)):
        values = []
        for size in groups:  # images that are hard for one run are hard for others
            hard = rng.normal(size=(REPEAT, size, 1))
            skill = [hard + rng.normal(size=(REPEAT, size, seeds)) for _ in range(2)]
            limits = scipy.stats.norm.ppf([better, worse]) * 2**0.5
            one, other = ((s < limit).mean(axis=2) for s, limit in zip(skill, limits, strict=True))
            values.append(one - other)
        shares.append(covered(intervals.difference_of_rates(values), better - worse))
    check(f"paired difference of {'balanced ' * per_class}accuracy", shares)


@pytest.mark.slow
@pytest.mark.parametrize(("better", "worse"), [(0.9, 0.8), (0.98, 0.95)])
def test_paired_differences_of_areas_and_losses_are_covered(better, worse):
    sizes, rng = SIZES[1], np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    names = ("macro_auroc", "log_loss", "macro_f1")

    def runs(labels):
        """Two runs whose errors have half of their images in common."""
        state = rng.integers(2**32)
        return [
            np.where(
                (np.arange(len(labels)) % 2 == 0)[:, None],
                predicted(np.random.default_rng(state), labels, np.full(len(sizes), recall), 1.0),
                predicted(rng, labels, np.full(len(sizes), recall), 1.0),
            )
            for recall in (better, worse)
        ]

    population = np.repeat(labels, 300)
    everyone = runs(population)
    truth = [
        metrics.HEADLINES[name](everyone[0], population)
        - metrics.HEADLINES[name](everyone[1], population)
        for name in names
    ]
    hits = []
    for _ in range(REPEAT):
        pair = runs(labels)
        found = [
            estimates.difference(*([metrics.estimate(n, p, labels)] for p in pair), labels)
            for n in names
        ]
        hits.append([f.low <= t <= f.high for f, t in zip(found, truth, strict=True)])
    for what, share in zip(names, np.mean(hits, axis=0), strict=True):
        check(f"paired difference of {what}", share)
