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
from fedjax_med.cli.commands import contribution
from fedjax_med.cli.commands import evaluate as evaluate_command
from fedjax_med.evaluation import metrics, predictions
from fedjax_med.experiment import config, resolve
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


def test_a_partition_is_written_first(tmp_path):
    for label in "ab":
        (tmp_path / "data" / "Train" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (16, 16), (60 * number, 9 * ord(label) - 800, 0))
            image.save(tmp_path / "data" / "Train" / label / f"{number}.png")
    places = [f"--data_dir={tmp_path / 'data'}", f"--cache_dir={tmp_path}"]
    options = ["--config.num_clients=2", "--config.image_size=16"]
    with contextlib.redirect_stdout(Closed()):
        code = cli.main(["partition", *places, *options, f"--out={tmp_path / 'out'}"])
    assert code == 1
    assert len(list((tmp_path / "out").rglob("*.png"))) == 8


def test_a_cache_is_cleared_first(tmp_path):
    kept = [tmp_path / "features" / name for name in ("a.npy", "b.npy")]
    left = tmp_path / "features" / ".a.npy.4711.0123abcd.tmp"
    (tmp_path / "features").mkdir()
    for file in (*kept, left):
        file.touch()
    with contextlib.redirect_stdout(Closed()):
        assert cli.main(["cache", "--clear", f"--cache_dir={tmp_path}"]) == 1
    assert not any(file.exists() for file in (*kept, left))


def test_every_run_is_evaluated_whoever_reads(tmp_path, monkeypatch, capsys):
    done = []

    def evaluated(workdir, **_):
        done.append(workdir)
        print(f"{workdir}: the model of round 1")
        return summarized()

    monkeypatch.setattr(evaluate_command, "read_run", lambda *_: saved_run(tmp_path))
    monkeypatch.setattr(evaluate_command, "check_same_test_set", lambda *_: None)
    monkeypatch.setattr(evaluate_command, "evaluate_run", evaluated)
    with contextlib.redirect_stdout(Closed()):
        assert cli.main(["evaluate", "--workdir=one,other"]) == 1
    assert done == ["one", "other"]
    assert capsys.readouterr().err.count("\n") == 1


def saved_run(workdir):
    return types.SimpleNamespace(workdir=workdir, resolved=resolve.settle(config.Experiment()))


def test_contributions_are_written_first(tmp_path, monkeypatch):
    plan = types.SimpleNamespace(names=(), train=types.SimpleNamespace(sizes=np.ones(2)))
    kept = types.SimpleNamespace(validation=types.SimpleNamespace(label=[0]), rounds=1)
    monkeypatch.setattr(contribution, "read_run", lambda *_: saved_run(tmp_path))
    monkeypatch.setattr(contribution.valuation, "check", lambda experiment: None)
    run = types.SimpleNamespace(data=plan)
    monkeypatch.setattr(contribution, "load_run", lambda *_, **__: run)
    monkeypatch.setattr(contribution, "load_kept", lambda loaded: kept)
    monkeypatch.setitem(contribution.valuation.METHODS, "one_round", lambda *_: None)
    monkeypatch.setattr(contribution.valuation, "to_json", lambda *_: {})
    monkeypatch.setattr(contribution.valuation, "table", lambda result: "")
    written = []
    monkeypatch.setattr(contribution, "_write", lambda *given: written.append(given))
    with contextlib.redirect_stdout(Closed()):
        assert cli.main(["contribution", f"--workdir={tmp_path}", "--method=one_round"]) == 1
    assert written[0][0] == tmp_path


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
