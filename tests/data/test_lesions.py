import dataclasses
import functools
import hashlib
import json
import tempfile
from pathlib import Path

import as_users
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.datasets import lesions
from fedjax_med.data.datasets._dermatoscope import photograph
from fedjax_med.data.datasets._lesion_drawing import PATTERNS, draw
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, resolve


def drawn(**options: int) -> Dataset:
    """Drawn anew, whatever was drawn before."""
    with tempfile.TemporaryDirectory() as cache:
        return lesions.build("", cache, 32, **options)


def small(**options: int) -> Dataset:
    return drawn(**{"train_size": 40, "test_size": 18, **options})


@functools.cache
def full() -> Dataset:
    """The default set at half its size in pixels, which is what the linear models see."""
    return drawn()


def linear_score(train: np.ndarray, test: np.ndarray, strength: float) -> float:
    """Test balanced accuracy of logistic regression on features ``[N, ...]``."""
    scaler = StandardScaler()
    train = scaler.fit_transform(train.reshape(len(train), -1))
    model = LogisticRegression(C=strength, tol=0.01, max_iter=500, class_weight="balanced")
    model.fit(train, full().train.label)
    predicted = model.predict(scaler.transform(test.reshape(len(test), -1)))
    return balanced_accuracy_score(full().test.label, predicted)


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not():
    first, again, other = small(seed=3), small(seed=3), small(seed=4)
    for split in ("train", "test"):
        for field, same in zip(getattr(first, split), getattr(again, split), strict=True):
            np.testing.assert_array_equal(field, same)
        assert not set(getattr(first, split).sha256) & set(getattr(other, split).sha256)


def test_a_grown_set_contains_the_images_of_the_small_one():
    few, many = small(), small(train_size=61, test_size=25)
    for split in ("train", "test"):
        grown = dict(zip(getattr(many, split).name, getattr(many, split).sha256, strict=True))
        for name, sha256 in zip(getattr(few, split).name, getattr(few, split).sha256, strict=True):
            assert grown[name] == sha256


@pytest.mark.slow
def test_no_image_is_drawn_twice():
    sha256 = np.concatenate([full().train.sha256, full().test.sha256])
    assert len(set(sha256)) == len(sha256) == 1800 + 315


def test_splits_are_complete_sorted_and_consistent():
    dataset = small()
    assert dataset.class_names == tuple(sorted(PATTERNS))
    assert len(dataset.class_names) == 9
    for split, size in ((dataset.train, 40), (dataset.test, 18)):
        assert split.num_examples == size
        assert split.image.shape == (size, 32, 32, 3)
        assert split.image.dtype == np.uint8
        assert split.label.dtype == np.int32
        assert split.image_hash.shape == (size, 32)
        assert split.image_hash.dtype == np.uint8
        assert list(split.name) == sorted(set(split.name))
        assert [name.split("/")[0] for name in split.name] == [
            dataset.class_names[label] for label in split.label
        ]
        assert split.sha256[5] == hashlib.sha256(split.image[5].tobytes()).hexdigest()
        assert (split.client == -1).all()


@pytest.mark.slow
def test_train_is_imbalanced_by_three_and_test_is_balanced():
    train = np.bincount(full().train.label, minlength=9)
    assert train.max() / train.min() == pytest.approx(3, rel=0.02)
    assert (np.bincount(full().test.label, minlength=9) == 35).all()


def test_class_sizes_follow_the_weights_and_never_shrink():
    weights = np.array([3.0, 2.0, 1.0])
    np.testing.assert_array_equal(lesions.class_sizes(weights, 12), [6, 4, 2])
    sizes = np.array([lesions.class_sizes(weights, total) for total in range(30)])
    np.testing.assert_array_equal(sizes.sum(axis=1), np.arange(30))
    assert (np.diff(sizes, axis=0) >= 0).all()


def test_a_test_split_may_be_empty():
    assert small(test_size=0).test.image.shape == (0, 32, 32, 3)
    assert small(test_size=0).test.image_hash.shape == (0, 32)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@pytest.mark.parametrize("size", [16, 64, 97])
def test_every_pattern_draws_at_every_size(pattern: str, size: int):
    rng = np.random.default_rng(5)
    drawn = draw(rng, pattern, size)
    assert drawn.min() > 0
    assert drawn.max() < 1
    image = photograph(rng, drawn)
    assert image.shape == (size, size, 3)
    assert image.std() > 5


def test_the_same_lesion_is_drawn_at_every_size():
    for pattern in sorted(PATTERNS):
        fine = draw(np.random.default_rng(5), pattern, 96)
        coarse = draw(np.random.default_rng(5), pattern, 48)
        halved = fine.reshape(48, 2, 48, 2, 3).mean(axis=(1, 3))
        other = draw(np.random.default_rng(6), pattern, 48)
        assert np.abs(halved - coarse).mean() < 0.02 < np.abs(other - coarse).mean()


@pytest.mark.slow
def test_a_linear_model_on_pixels_stays_far_below_the_bound():
    images = (full().train.image, full().test.image)
    best = max(linear_score(*images, strength) for strength in (1e-3, 1e-2))
    assert 0.2 < best < 0.55


def test_mean_colour_hardly_tells_the_class():
    train, test = (split.image.mean(axis=(1, 2)) for split in (full().train, full().test))
    assert linear_score(train, test, 1.0) < 0.3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("somewhere", "", 32), {}, "--data_dir=somewhere: .* takes no folder"),
        (("", "", 8), {}, "image_size of at least 16, got 8"),
        (("", "", 32), {"seed": -1}, "seed of at least 0, got -1"),
        (("", "", 32), {"train_size": 8}, "train_size of at least 9, got 8"),
        (("", "", 32), {"test_size": -1}, "test_size of at least 0, got -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, options, message):
    with pytest.raises(UserError, match=message):
        lesions.build(*arguments, **options)


def test_the_shelf_finds_the_set_and_its_options():
    experiment = dataclasses.replace(config.Experiment(), dataset=config.Spec("lesions"))
    options = resolve.complete(experiment).dataset.options
    assert options == {"seed": 0, "train_size": 1800, "test_size": 315}


@pytest.mark.slow
def test_the_small_network_passes_what_no_linear_model_does(tmp_path):
    config_file = Path(__file__).parent.parent.parent / "configs" / "lesions.py"
    arguments = [f"--config={config_file}", "--config.rounds=14", "--evaluate"]
    done = as_users.command("train", *arguments, f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert evaluation["balanced_accuracy"] > 0.8  # the linear models stay below 0.6
