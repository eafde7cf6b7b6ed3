"""Results are written before they are printed: a reader that has left takes nothing along."""

import contextlib
import errno
import io
import json
import types

import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.evaluation import metrics, predictions
from fedjax_med.experiment import config
from fedjax_med.run import crossvalidate, evaluate

CLASSES = ("a", "b")


class Closed(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def told(seed=0):
    rng = np.random.default_rng(seed)
    label = np.array([0, 1] * 4, np.int32)
    image = np.array([f"a/{seed}_{number}.png" for number in range(8)])
    given = rng.dirichlet([1, 1], 8).astype(np.float32)
    return predictions.Predictions(image, np.full(8, -1, np.int32), label, given)


def summarized(seed=0):
    one = told(seed)
    return metrics.summarize(one.probabilities, one.label, CLASSES)


def test_the_audit_is_written_first(tmp_path):
    (tmp_path / "data" / "Train" / "a").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "data" / "Train" / "a" / "0.png")
    places = [f"--data_dir={tmp_path / 'data'}", f"--cache_dir={tmp_path}"]
    with contextlib.redirect_stdout(Closed()):
        code = cli.main(["audit", *places, f"--out={tmp_path / 'a.json'}"])
    assert code == 1
    assert json.loads((tmp_path / "a.json").read_text())["num_train"] == 1


def test_an_audit_removes_what_a_killed_one_left(tmp_path):
    (tmp_path / "data" / "Train" / "a").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "data" / "Train" / "a" / "0.png")
    places = [f"--data_dir={tmp_path / 'data'}", f"--cache_dir={tmp_path / 'cache'}"]
    (tmp_path / ".a.json.4711.0123abcd.tmp").touch()
    assert cli.main(["audit", *places, f"--out={tmp_path / 'a.json'}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data", "cache", "a.json"}


def test_an_evaluation_is_written_first(tmp_path, monkeypatch):
    state = types.SimpleNamespace(round=1)
    monkeypatch.setattr(evaluate, "restore", lambda run, which: (state, 1))
    monkeypatch.setattr(evaluate, "_evaluate", lambda *_: (summarized(), told()))
    monkeypatch.setattr(evaluate, "check_test", lambda data: None)
    plan = types.SimpleNamespace(experiment=config.Experiment(), privacy=None, last_round=1)
    data = types.SimpleNamespace(class_names=CLASSES, test_set="")
    with pytest.raises(BrokenPipeError), contextlib.redirect_stdout(Closed()):
        evaluate.evaluate_checkpoint(tmp_path, plan, data, "last")
    names = {"evaluation.json", "predictions.csv", "confusion_matrix.png"}
    assert names == {path.name for path in tmp_path.iterdir()}


def test_a_cross_validation_is_written_first(tmp_path):
    folders = [tmp_path / "fold_0", tmp_path / "fold_1"]
    for seed, folder in enumerate(folders):
        predictions.write(told(seed), CLASSES, folder / predictions.NAME)
        found = summarized(seed) | {"site_names": []}
        (folder / "evaluation.json").write_text(json.dumps(found))
    with pytest.raises(BrokenPipeError), contextlib.redirect_stdout(Closed()):
        crossvalidate.report(tmp_path, folders)
    assert {"crossvalidation.json", "predictions.csv"} < {path.name for path in tmp_path.iterdir()}
