"""Confident learning on tables small enough for a calculation by hand."""

import numpy as np
import pytest

from fedjax_med.data.audit import label_errors

# Of class 0 the own probabilities are .9, .8, .3 and .2: threshold .55. Of class 1: .6, .7, .2: .5.
# Of class 2: .4, .5: .45.
PROBABILITIES = np.array([
    [0.9, 0.1, 0.0],
    [0.8, 0.1, 0.1],
    [0.3, 0.6, 0.1],  # counts as 1: doubtful
    [0.2, 0.4, 0.4],  # counts as none, although another class is more probable
    [0.3, 0.6, 0.1],
    [0.1, 0.7, 0.2],
    [0.0, 0.2, 0.8],  # counts as 2: more doubtful
    [0.3, 0.3, 0.4],
    [0.1, 0.4, 0.5],
])  # fmt: skip
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])


def test_thresholds_joint_and_doubts_are_those_counted_by_hand():
    np.testing.assert_allclose(label_errors.thresholds(PROBABILITIES, LABELS), [0.55, 0.5, 0.45])
    found = label_errors.find(PROBABILITIES, LABELS)
    assert found.joint.tolist() == [[2, 1, 0], [0, 2, 1], [0, 0, 1]]
    assert found.image.tolist() == [6, 2]
    assert found.likely.tolist() == [2, 1]


def test_a_label_that_is_the_most_probable_class_is_not_doubted():
    """Class 1 is rare and its threshold .3, which an image of class 0 exceeds with .45."""
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.7, 0.3]])
    found = label_errors.find(probabilities, np.array([0, 0, 0, 1]))
    assert found.joint.tolist() == [[2, 1], [0, 1]]
    assert found.image.size == 0


def test_a_class_without_images_has_no_doubts():
    probabilities = np.array([[0.9, 0.0, 0.1], [0.2, 0.0, 0.8]])
    found = label_errors.find(probabilities, np.array([0, 2]))
    assert found.joint.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert np.isinf(label_errors.thresholds(probabilities, np.array([0, 2]))[1])


@pytest.mark.parametrize("seed", range(3))
def test_flipped_labels_come_first(seed):
    rng = np.random.default_rng(seed)
    true = rng.choice(4, 500, p=[0.6, 0.2, 0.15, 0.05])
    labels, flipped = true.copy(), np.arange(500) % 20 == 0
    labels[flipped] = (true[flipped] + 1) % 4
    logits = rng.normal(size=(500, 4))
    logits[np.arange(500), true] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = label_errors.find(probabilities, labels)
    assert flipped[found.image].sum() >= 19  # of 25
    assert flipped[found.image[:15]].mean() > 0.85
    right = found.likely == true[found.image]
    assert right[flipped[found.image]].mean() > 0.9
