"""Evaluations on other test images: never averaged with others, and never in their place."""

import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

from fedjax_med.cli import main as cli

NAMES = ("evaluation.json", "predictions.csv", "confusion_matrix.png", "experiment.json")


def images(folder, part, seed, classes=("bright", "dark")):
    rng = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / part / name).mkdir(parents=True)
        for one in range(12 if part == "Train" else 4):
            pixels = rng.integers(100 * number, 100 + 100 * number, (16, 16, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / part / name / f"{one}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images, the same with another Test, and a run that was tested on the first."""
    root = tmp_path_factory.mktemp("tested")
    images(root / "a", "Train", 0)
    shutil.copytree(root / "a", root / "b")
    images(root / "a", "Test", 1)
    images(root / "b", "Test", 2)
    assert train(root, "run", "a", "--evaluate") == 0
    return root


def train(root, name, data, *flags):
    own = [f"--workdir={root / name}", f"--data_dir={root / data}", f"--cache_dir={root / 'cache'}"]
    own += ["--config.dataset.name=image_folder", "--config.model.name=linear"]
    own += ["--config.rounds=1", "--config.num_clients=2", "--config.checkpoint.every=1"]
    return cli.main(["train", f"--config={tiny.__file__}", *own, *flags])


def evaluate(*workdirs, **flags):
    given = [f"--{name}={value}" for name, value in flags.items()]
    return cli.main(["evaluate", f"--workdir={','.join(map(str, workdirs))}", *given])


def content(run):
    return {name: (run / name).read_bytes() for name in NAMES if (run / name).exists()}


def refused(capsys, said):
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[-1], error
    return True


def test_an_evaluation_is_not_replaced_by_one_on_other_test_images(place, capsys):
    run = place / "run"
    before = content(run)
    assert len(before) == 4
    assert evaluate(run, data_dir=place / "b") == 2
    assert refused(capsys, "the test images differ from those that")
    assert train(place, "run", "b", "--evaluate") == 2
    assert refused(capsys, "--data_dir=FOLDER with the same test images")
    assert content(run) == before
    assert evaluate(run, data_dir=place / "a") == 0
    assert content(run) == before


def test_an_evaluation_of_an_earlier_version_is_not_replaced_either(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    for name in ("evaluation.json", "experiment.json"):
        saved = json.loads((tmp_path / "run" / name).read_text())
        del saved["test_set"]
        (tmp_path / "run" / name).write_text(json.dumps(saved))
    before = content(tmp_path / "run")
    assert evaluate(tmp_path / "run", data_dir=place / "b") == 2
    assert refused(capsys, "the test images differ from those that")
    assert content(tmp_path / "run") == before
    assert evaluate(tmp_path / "run") == 0
    (tmp_path / "run" / "evaluation.json").write_text("{")  # damaged: nothing is lost
    assert evaluate(tmp_path / "run") == 0


def test_runs_of_different_test_images_are_not_averaged(place, capsys):
    assert train(place, "other", "b") == 0
    assert train(place, "seed_1", "a", "--config.seed=1", "--config.image_size=8") == 0
    before = content(place / "run")
    assert evaluate(place / "run", place / "seed_1", place / "other") == 2
    assert refused(capsys, "have other test images or classes")
    assert content(place / "run") == before
    assert not (place / "seed_1" / "evaluation.json").exists()
    assert evaluate(place / "run", place / "seed_1") == 0
    assert "All 2 runs:" in capsys.readouterr().out


def test_nothing_is_evaluated_if_an_evaluation_may_not_be_replaced(place, tmp_path, capsys):
    for name in ("fresh", "run"):
        shutil.copytree(place / "run", tmp_path / name)
    for name in NAMES[:3]:
        (tmp_path / "fresh" / name).unlink()
    before = content(tmp_path / "run")
    assert evaluate(tmp_path / "fresh", tmp_path / "run", data_dir=place / "b") == 2
    assert refused(capsys, "the test images differ from those that")
    assert content(tmp_path / "fresh").keys() == {"experiment.json"}
    assert content(tmp_path / "run") == before


def test_a_run_is_not_averaged_with_itself(place, tmp_path, capsys):
    (tmp_path / "link").symlink_to(place / "run")
    for again in (place / "run", place / "a" / ".." / "run", tmp_path / "link"):
        assert evaluate(place / "run", again) == 2
        assert refused(capsys, "are the same run")


@pytest.mark.slow
def test_folds_of_the_same_images_are_averaged(place, capsys):
    folds = ["--config.folds=2", "--config.fold=0"], ["--config.folds=2", "--config.fold=1"]
    for number, flags in enumerate(folds):
        assert train(place, f"fold_{number}", "a", *flags) == 0
    assert evaluate(place / "fold_0", place / "fold_1") == 0
    assert "All 2 runs:" in capsys.readouterr().out
    assert evaluate(place / "fold_0", place / "run") == 2
