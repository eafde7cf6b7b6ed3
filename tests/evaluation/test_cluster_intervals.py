"""Images of one lesion or patient: how often intervals cover the truth where they are alike."""

import numpy as np
import pytest
from test_intervals import LEAST, SIZES, check, covered, predicted

from fedjax_med.evaluation import (
    class_intervals,
    clusters,
    estimates,
    intervals,
    metrics,
    placements,
)
from fedjax_med.evaluation.intervals import Rates

REPEAT = 1000
ALIKE = (0.0, 0.25, 0.5, 0.75, 1.0)  # intra-class correlations
LESS_OFTEN = pytest.mark.parametrize("alike", [0.0, 0.75, 1.0])  # where each sample takes long
# Groups of the images of a class: of one to five images, mostly alone, and of two.
MIXED, FEW, PAIRS = (1, 2, 3, 4, 5), (1, 1, 1, 1, 2, 1, 1, 3), (2,)
patterns = pytest.mark.parametrize("pattern", [MIXED, FEW, PAIRS], ids=["mixed", "few", "pairs"])


def grouped(size, pattern, first=0):
    """Numbers of the groups of a class's images, whose sizes repeat `pattern`."""
    return first + np.repeat(np.arange(size), np.resize(pattern, size))[:size]


def world(sizes, pattern):
    """Labels and group numbers of classes of these sizes."""
    labels, groups = np.repeat(np.arange(len(sizes)), sizes), []
    for size in sizes:
        groups.append(grouped(size, pattern, groups[-1].max() + 1 if groups else 0))
    return labels, np.concatenate(groups)


def shared(rng, groups, alike, repeat):
    """Uniform numbers ``[repeat, N]`` of which images of a group share some: correlated so."""
    own = rng.random((repeat, len(groups)))
    of_group = rng.random((repeat, groups.max() + 1))[:, groups]
    return np.where(rng.random(own.shape) < np.sqrt(alike), of_group, own)


def test_groups_are_numbered_and_images_without_one_are_alone():
    assert clusters.numbered(np.array(["b", "", "a", "b", ""])).tolist() == [1, 2, 0, 1, 3]
    assert clusters.sums(np.array([[1, 2, 4, 8]]), np.array([1, 0, 1, 2])).tolist() == [[2, 5, 8]]


def test_design_effect_is_kishs_if_groups_are_alike_and_1_if_all_are_alone():
    groups = np.repeat(np.arange(40), np.resize(MIXED, 40))
    alike = np.random.default_rng(0).normal(size=40)[groups]
    kish = (np.resize(MIXED, 40) ** 2).sum() / len(groups)
    assert clusters.design_effect(alike - alike.mean(), groups) == pytest.approx(kish, rel=0.3)
    assert clusters.design_effect(np.zeros(len(groups)), groups) == pytest.approx(kish)
    alone = np.arange(len(groups))
    assert clusters.design_effect(alike - alike.mean(), alone) == pytest.approx(1)
    independent = np.random.default_rng(1).normal(size=(200, len(groups)))
    found = clusters.design_effect(independent, groups)
    assert found.min() >= 1
    assert 1 < found.mean() < 1.3


def test_patients_with_images_of_several_classes_widen_a_mean_over_classes():
    labels, patients = np.repeat(np.arange(3), 20), np.tile(np.arange(20), 3)
    values = np.tile(np.where(np.arange(20) < 10, 1.0, -1.0), 3)
    alike = clusters.of_classes(values, labels, patients)
    assert alike.min() > 2.5  # three images of each count as one
    none = clusters.of_classes(values, labels, np.arange(60))
    np.testing.assert_allclose(none, 1)


def test_every_figure_is_the_same_and_only_intervals_widen():
    labels, groups = world(SIZES[1], MIXED)
    rng = np.random.default_rng(0)
    p = predicted(rng, labels, np.full(8, 0.8), 1.0)
    each = metrics.summarize(p, labels, "abcdefgh")
    names = np.array([f"lesion {number}" for number in groups])
    found = metrics.summarize(p, labels, "abcdefgh", groups=names)
    alone = metrics.summarize(p, labels, "abcdefgh", groups=np.full(len(labels), ""))
    for name in metrics.HEADLINES:
        assert found[name] == each[name]
        (low, high), (less, more) = found["intervals"][name], each["intervals"][name]
        assert low <= less
        assert high >= more
        assert high - low > 1.05 * (more - less), name
        np.testing.assert_allclose(alone["intervals"][name], [less, more], atol=0.01)
    for name, row in found["per_class"].items():
        of_each = each["per_class"][name]
        assert row["sensitivity"] == of_each["sensitivity"]
        assert (row["intervals"]["auroc"] is None) == (of_each["intervals"]["auroc"] is None)
        low, high = row["intervals"]["specificity"]
        assert high - low >= np.diff(of_each["intervals"]["specificity"])


RECALLS = (0.5, 0.7, 0.85, 0.93, 0.97, 0.99, 1.0)


@pytest.mark.slow
@patterns
@pytest.mark.parametrize("sizes", [SIZES[1], [16, 60, 100]], ids=["Test", "larger"])
def test_accuracies_and_sensitivities_of_groups_are_covered(sizes, pattern):
    labels, groups = world(sizes, pattern)
    rng, size = np.random.default_rng(0), np.array(sizes, float)
    found = {"balanced accuracy": [], "accuracy": [], "sensitivity of a class": []}
    for alike in ALIKE:
        for recall in (*RECALLS, rng.uniform(0.5, 1, len(sizes))):
            recalls = np.broadcast_to(recall, len(sizes))
            right = shared(rng, groups, alike, REPEAT) < recalls[labels]
            mean = np.stack([right[:, labels == k].mean(axis=1) for k in range(len(sizes))], axis=1)
            effect = clusters.of_classes(right - mean[:, labels], labels, groups)
            of = intervals.grouped(Rates(mean, np.broadcast_to(size, mean.shape)), effect)
            balanced = intervals.mean_rate(of, of.variance.sum(axis=1) / len(sizes) ** 2)
            whole = right.mean(axis=1)
            count = len(labels) / clusters.design_effect(right - whole[:, None], groups)
            found["balanced accuracy"].append(covered(balanced, recalls.mean()))
            true = recalls[labels].mean()
            found["accuracy"].append(covered(intervals.proportion(whole, count), true))
            each = covered(intervals.proportion(of.mean, of.size), recalls)
            found["sensitivity of a class"] += each.tolist()
    for what, shares in found.items():
        check(f"{what}, groups of {pattern}", shares)


def alike_predictions(rng, labels, groups, recalls, spread, alike):
    """Predictions as `predicted`, of which images of a group and class share some."""
    cell = np.unique(np.stack([groups, labels]), axis=1, return_inverse=True)[1]
    first = np.unique(cell, return_index=True)[1]
    own = predicted(rng, labels, recalls, spread)
    of_group = predicted(rng, labels[first], recalls, spread)[cell]
    return np.where((rng.random(len(labels)) < np.sqrt(alike))[:, None], of_group, own)


HEADLINES = ("macro_auroc", "macro_f1", "brier", "log_loss", "balanced_accuracy", "accuracy")


@pytest.mark.slow
@LESS_OFTEN
@pytest.mark.parametrize(("recall", "spread"), [(0.7, 1.0), (0.98, 0.0), (1.0, 1.5)])
def test_areas_and_losses_of_groups_are_covered(recall, spread, alike):
    sizes, rng = SIZES[1], np.random.default_rng(0)
    labels, groups = world(sizes, MIXED)
    recalls, population = np.full(len(sizes), recall), np.repeat(labels, 300)
    everyone = predicted(rng, population, recalls, spread)
    areas = placements.areas(everyone, population).area
    specificity = metrics.class_rates(everyone, population)["specificity"]
    truth = [metrics.HEADLINES[name](everyone, population) for name in HEADLINES]
    hits = []
    for _ in range(REPEAT // 2):
        p = alike_predictions(rng, labels, groups, recalls, spread, alike)
        found, rates = placements.areas(p, labels, groups), metrics.class_rates(p, labels)
        of_areas = estimates.of_areas(found)
        of_classes = class_intervals.of_each(p, labels, found, rates, groups)
        true = np.array([row["specificity"] for row in of_classes])
        every = [metrics.estimate(name, p, labels, groups=groups) for name in HEADLINES]
        hits.append(
            [
                *((of_areas.low <= areas) & (areas <= of_areas.high))[:-1],  # the last has 3 images
                *((true[:, 0] <= specificity) & (specificity <= true[:, 1])),
                *(
                    e.interval.low <= t <= e.interval.high
                    for e, t in zip(every, truth, strict=True)
                ),
            ]
        )
    area, true, shares = np.split(np.mean(hits, axis=0), [7, 15])
    check(f"AUROC of a class, {alike}", area)
    check(f"specificity of a class, {alike}", true)
    for what, share in zip(HEADLINES, shares, strict=True):
        check(f"{what}, {alike}", share)


@pytest.mark.slow
@patterns
def test_paired_differences_of_groups_are_covered(pattern):
    sizes, rng, shares = SIZES[1], np.random.default_rng(0), []
    labels, groups = world(sizes, pattern)
    for alike in ALIKE:
        for won, lost in ((0, 0), (0.01, 0), (0.02, 0.02), (0.1, 0), (0.3, 0.1), (0.4, 0.4)):
            drawn = shared(rng, groups, alike, REPEAT)
            values = (drawn < won).astype(float) - (drawn > 1 - lost)
            classes = [values[:, labels == k] for k in range(len(sizes))]
            of = [groups[labels == k] for k in range(len(sizes))]
            balanced = intervals.difference_of_rates(classes, of)
            whole = intervals.difference_of_rates([values], [groups])
            shares += [covered(balanced, won - lost), covered(whole, won - lost)]
    check(f"paired differences of accuracies, groups of {pattern}", shares)


@pytest.mark.slow
@LESS_OFTEN
def test_paired_differences_of_areas_of_groups_are_covered(alike):
    sizes, rng = SIZES[1], np.random.default_rng(0)
    labels, groups = world(sizes, MIXED)
    names, recalls = ("macro_auroc", "log_loss", "macro_f1"), (0.9, 0.8)

    def run(labels, groups, recall, state):
        """Half of the groups are as those of the other run."""
        same = alike_predictions(
            np.random.default_rng(state), labels, groups, np.full(len(sizes), recall), 1.0, alike
        )
        own = alike_predictions(rng, labels, groups, np.full(len(sizes), recall), 1.0, alike)
        return np.where((groups % 2 == 0)[:, None], same, own)

    population, many = np.repeat(labels, 300), np.arange(300 * len(labels))
    everyone = [run(population, many, recall, 1) for recall in recalls]
    true = [
        metrics.HEADLINES[n](everyone[0], population)
        - metrics.HEADLINES[n](everyone[1], population)
        for n in names
    ]
    hits = []
    for repeat in range(REPEAT // 2):
        pair = [run(labels, groups, recall, repeat) for recall in recalls]
        found = [
            estimates.difference(
                *([metrics.estimate(n, p, labels, groups=groups)] for p in pair), labels, groups
            )
            for n in names
        ]
        hits.append([f.low <= t <= f.high for f, t in zip(found, true, strict=True)])
    for what, share in zip(names, np.mean(hits, axis=0), strict=True):
        check(f"paired difference of {what}, {alike}", share)


@pytest.mark.slow
@LESS_OFTEN
def test_patients_with_several_classes_are_covered(alike):
    """Each of 40 patients has an image of every class, or of some of them."""
    rng, classes = np.random.default_rng(0), 4
    patients = np.tile(np.arange(40), classes)
    labels = np.repeat(np.arange(classes), 40)
    keep = rng.random(len(labels)) < 0.7
    labels, groups = labels[keep], np.unique(patients[keep], return_inverse=True)[1]
    shares = []
    for recall in (0.5, 0.7, 0.9, 0.97, 1.0):
        right, hits = shared(rng, groups, alike, REPEAT // 2) < recall, []
        for one in right:
            guess = np.where(one, labels, (labels + 1) % classes)
            p = np.eye(classes)[guess]
            found = [
                metrics.estimate(name, p, labels, groups=groups).interval
                for name in ("balanced_accuracy", "accuracy")
            ]
            hits.append([low - 1e-12 <= recall <= high + 1e-12 for low, high in found])
        shares.append(np.mean(hits, axis=0))
    check(f"accuracies of patients, {alike}", shares)
    assert LEAST == 0.93
