"""A bundle as the start of another run: the same parameters, or one line."""

import json

import bundles
import jax
import numpy as np
import pytest

from fedjax_med.errors import UserError
from fedjax_med.experiment import resolve
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.models import cnn, linear
from fedjax_med.models.pretrained import exported, weights

KEY = jax.random.key(0)
SHAPE = (16, 16, 3)


@pytest.fixture
def written(tmp_path):
    """The folder of a bundle of three classes, and its parameters."""
    _, params = bundles.write(tmp_path / "m")
    return str(tmp_path / "m"), params


def first(model):
    return jax.eval_shape(lambda: model.init(KEY, SHAPE))


def test_all_parameters_are_those_of_the_bundle(written):
    folder, params = written
    model = cnn.build(3, widths=(4,), groups=2)
    found = weights.start(model, folder)(first(model))
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert weights.recorded(folder) == []
    assert len(weights.digest(folder)) == 64


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (cnn.build(4, widths=(4,), groups=2), "expected float32 (4,)"),
        (cnn.build(3, widths=(4, 4), groups=2), "block_1/convolution/kernel is missing"),
        (linear.build(3), "give the network, its options and as many classes"),
    ],
)
def test_another_model_is_refused(written, model, message):
    with pytest.raises(UserError) as told:
        weights.start(model, written[0])(first(model))
    assert message in str(told.value)
    assert "is a bundle of another model" in str(told.value)


def test_a_model_without_a_frozen_part_has_none_to_give(written):
    model = cnn.build(3, widths=(4,), groups=2)
    with pytest.raises(UserError, match=r"the tensor frozen/.* is missing"):
        weights.start(model, written[0], exported.FROZEN)(first(model))


def test_a_damaged_bundle_and_one_of_another_version_are_refused(written, tmp_path):
    file = tmp_path / "m" / "bundle.json"
    info = json.loads(file.read_text())
    for changes, message in (
        ({"version": 2}, "expected 'fedjax_med bundle' of version 1, got"),
        ({"files": []}, "is not what `export` writes"),
        ({"files": {"model.safetensors": "0"}}, "model.safetensors is damaged"),
    ):
        file.write_text(json.dumps(info | changes))
        with pytest.raises(UserError, match=message):
            exported.read(written[0])


def test_classes_are_those_of_the_data_in_their_order(written):
    exported.check_classes(written[0], bundles.NAMES)
    exported.check_classes("imagenet", ["a"])
    exported.check_classes("", ["a"])
    with pytest.raises(
        UserError, match=r"of the classes nevus, melanoma, a, b; the data have x: a"
    ):
        exported.check_classes(written[0], ["x"])
    with pytest.raises(UserError, match="a bundle starts runs of the same classes"):
        exported.check_classes(written[0], bundles.NAMES[::-1])


def test_a_run_remembers_where_its_bundle_lies(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = Experiment(dataset=Spec("lesions"), pretrained="m")
    assert resolve.complete(asked).pretrained == written[0]
    (tmp_path / "m").rename(tmp_path / "imagenet")  # which stays the name of those weights
    asked = Experiment(dataset=Spec("lesions"), pretrained="imagenet")
    assert resolve.complete(asked).pretrained == "imagenet"
    assert not exported.is_bundle("imagenet")
