"""Which pairs of classes are doubted: one copied from another, not a merely similar one."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fedjax_med.data.audit import areas, class_pairs
from fedjax_med.data.audit.areas import Area
from fedjax_med.data.audit.class_pairs import Pair
from fedjax_med.data.audit.discriminant import out_of_fold_logs


def test_the_area_is_that_of_scikit_learn_and_the_interval_hanley_and_mcneils():
    rng = np.random.default_rng(0)
    positive = np.arange(90) < 40
    scores = np.round(rng.normal(size=90) + positive, 1)  # with ties
    found = areas.area(scores, positive, np.arange(90))
    assert found.auroc == pytest.approx(roc_auc_score(positive, scores))
    assert found.sizes == (40, 50)
    a = (found.auroc * 40 + 0.5) / 41
    one, two = a / (2 - a), 2 * a**2 / (1 + a)
    variance = (a * (1 - a) + 39 * (one - a**2) + 49 * (two - a**2)) / (40 * 50)
    assert found.high - found.auroc == pytest.approx(1.959964 * math.sqrt(variance))
    assert found.auroc - found.low == pytest.approx(found.high - found.auroc)


def test_images_of_a_group_count_as_one_and_an_area_of_one_has_an_interval():
    scores, positive = np.arange(40.0), np.arange(40) >= 20
    found = areas.area(scores, positive, np.arange(40))
    assert (found.auroc, found.high) == (1.0, 1.0)
    assert 0.8 < found.low < 1
    fewer = areas.area(scores, positive, np.arange(40) // 4)
    assert fewer.sizes == (5, 5)
    assert fewer.low < found.low


def test_the_interval_covers():
    rng = np.random.default_rng(0)
    positive, groups = np.arange(120) < 30, np.arange(120)
    true = 0.5 * (1 + math.erf(0.5))  # of normal scores that are 1 apart
    found = [areas.area(rng.normal(size=120) + positive, positive, groups) for _ in range(400)]
    assert np.mean([one.low <= true <= one.high for one in found]) > 0.93


def compared(sizes, means, seed, width=20):
    """Compare classes of normal features; `means` are their places on the first few axes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    features = rng.normal(size=(len(labels), width))
    for label, place in enumerate(means):
        features[labels == label, : len(place)] += place
    logs = out_of_fold_logs(features, labels, np.arange(len(labels)), 5, seed)
    return {
        pair.classes: pair for pair in class_pairs.compare(logs, labels, np.arange(len(labels)))
    }


FAR = [(0, 4, 0), (0, 0, 4)]


@pytest.mark.parametrize("sizes", [(40, 200), (80, 350), (100, 100)])
def test_a_copied_class_is_doubted_and_a_similar_one_is_not(sizes):
    copied, similar = 0, 0
    for seed in range(20):
        pairs = compared([*sizes, 100, 100], [(0, 0, 0), (0, 0, 0), *FAR], seed)
        assert not any(pair.alike() for classes, pair in pairs.items() if classes != (0, 1))
        copied += pairs[0, 1].doubtful(trained=False)
        # 1.5 standard deviations apart: the best AUROC is 0.86
        pairs = compared([*sizes, 100, 100], [(0, 0, 0), (1.5, 0, 0), *FAR], seed)
        similar += pairs[0, 1].doubtful(trained=True)
    assert copied >= 18
    assert similar == 0


def test_weak_features_prove_nothing():
    pairs = compared([60, 60, 60, 60], [(0,), (0,), (0,), (0.5,)], 0)
    assert pairs[0, 1].alike()
    assert not any(pair.doubtful(trained=True) for pair in pairs.values())
    two = Pair((0, 1), Area(0.5, 0.4, 0.6, (60, 60)), float("nan"))
    assert two.doubtful(trained=True)
    assert not two.doubtful(trained=False)


def test_classes_of_few_images_are_not_compared():
    assert set(compared([19, 40, 40], [(0,), (0,), (4,)], 0)) == {(1, 2)}
    assert compared([19, 40], [(0,), (0,)], 0) == {}
