"""The commands `compare` and `crossvalidate`, end to end on a tiny experiment."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.evaluation import predictions

TINY = f"--config={tiny.__file__}"
SHORT = ["--config.rounds=2", "--config.client.epochs=1", "--config.checkpoint.every=1"]


def call(command, workdir, cache, *arguments):
    where = [f"--workdir={workdir}", f"--cache_dir={cache}"]
    return cli.main([command, TINY, *where, *SHORT, *map(str, arguments)])


def read(file):
    return json.loads(file.read_text())


@pytest.mark.slow
def test_compare_tells_of_all_settings_and_goes_on_where_it_stopped(tmp_path, capsys):
    runs = tmp_path / "runs"
    assert call("compare", runs, tmp_path, "--seeds=0,1", "--config.num_clients=2") == 0
    told = capsys.readouterr().out
    assert "[8 of 8]" in told
    result = read(runs / "comparison.json")
    assert result["seeds"] == [0, 1]
    assert result["test_images"] == 27
    assert (runs / "comparison.png").stat().st_size > 1000
    for seed in (0, 1):
        expected = read(runs / f"seed_{seed}/federated/evaluation.json")["accuracy"]
        assert result["scores"]["federated"][seed]["accuracy"] == pytest.approx(expected)
        alone = [read(runs / f"seed_{seed}/local_{h}/evaluation.json")["accuracy"] for h in (0, 1)]
        assert result["scores"]["local"][seed]["accuracy"] == pytest.approx(np.mean(alone))
    for name in ("federated", "centralized"):
        saved = read(runs / "seed_1" / name / "experiment.json")["experiment"]
        assert (saved["setting"], saved["seed"]) == (name, 1)
    steps = result["steps"]
    assert steps["local"] == steps["federated"]
    assert (
        abs(steps["centralized"] - steps["federated"]) <= 2 * 2
    )  # a batch that is not full, a client
    assert "| federated | centralized |" in told
    assert call("compare", runs, tmp_path, "--seeds=0,1", "--config.num_clients=2") == 0
    again = capsys.readouterr().out
    assert again.count("All is done already") == 8
    assert again.splitlines()[-20:] == told.splitlines()[-20:]


@pytest.mark.slow
def test_compare_and_crossvalidate_agree_on_the_folds(tmp_path, capsys):
    options = ["--folds=2", "--config.num_clients=2"]
    assert call("crossvalidate", tmp_path / "cv", tmp_path, *options) == 0
    told = capsys.readouterr().out
    assert "In 2 folds, each image tested once:\n\n90 examples of 9 classes" in told
    result = read(tmp_path / "cv" / "crossvalidation.json")
    assert result["n"] == sum(fold["n"] for fold in result["folds"]) == 90
    assert sum(result["sites"]["n"]) == 90
    assert call("compare", tmp_path / "runs", tmp_path, *options, "--seeds=0") == 0
    same = read(tmp_path / "runs" / "comparison.json")["scores"]["federated"][0]
    assert same["balanced_accuracy"] == pytest.approx(result["balanced_accuracy"])
    assert call("crossvalidate", tmp_path / "cv", tmp_path, *options, "--only=1") == 0
    assert "In 1 fold, each image tested once:\n\n45 examples" in capsys.readouterr().out
    one = read(tmp_path / "cv" / "crossvalidation.json")
    assert one["accuracy"] == pytest.approx(result["folds"][1]["accuracy"])
    assert call("crossvalidate", tmp_path / "cv", tmp_path, *options) == 0
    table, names = predictions.read(tmp_path / "cv" / predictions.NAME)
    assert len(names) == 9
    accuracy = np.mean(table.probabilities.argmax(axis=1) == table.label)
    assert accuracy == pytest.approx(result["accuracy"])


@pytest.mark.parametrize(
    ("command", "argument", "message"),
    [
        ("crossvalidate", "--folds=1", "expected --folds >= 2, got 1"),
        ("crossvalidate", "--config.folds=3", "expected no --config.folds"),
        ("crossvalidate", "--only=0,5", "expected --only to name folds from 0 to 4"),
        ("crossvalidate", "--checkpoint=first", "checkpoints to evaluate"),
        ("compare", "--seeds=a", "expected --seeds=0,1,2 or the like, got 'a'"),
        ("compare", "--folds=1", "expected --folds >= 2, or 0"),
        ("compare", "--config.setting=centralized", "goes through the settings by itself"),
    ],
)
def test_what_cannot_be_compared_is_told_in_a_line(tmp_path, capsys, command, argument, message):
    assert call(command, tmp_path / "runs", tmp_path, argument) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_site_without_a_class_is_compared_and_named(tmp_path, capsys):
    rng, rows = np.random.default_rng(0), ["image,site"]
    for part, count in (("Train", 16), ("Test", 4)):
        for number, name in enumerate(("melanoma", "nevus", "vascular")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for one in range(count):
                pixels = rng.integers(0, 80, (16, 16, 3))
                pixels[..., number] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{one}.png")
                site = "Vienna" if one < count // 2 or name == "vascular" else "Barcelona"
                rows += [f"{name}/{name}_{one}.png,{site}"] * (part == "Train")
    (tmp_path / "sites.csv").write_text("\n".join(rows))
    command = [
        "compare",
        f"--data_dir={tmp_path}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--workdir={tmp_path / 'run'}",
        "--seeds=0",
        "--config.dataset.name=image_folder",
        "--config.partition.name=by_column",
        f"--config.partition.options.path={tmp_path / 'sites.csv'}",
        "--config.num_clients=2",
        "--config.rounds=1",
        "--config.image_size=16",
        "--config.model.name=linear",
        "--config.validation_fraction=0.25",
        "--config.loss.logit_adjustment=1",
        "--config.calibrate=True",
    ]
    assert cli.main(command) == 0
    assert "Hospital 0 has no validation image of: vascular." in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert found["names"] == ["Barcelona", "Vienna"]
    assert found["absent_classes"] == [["vascular"], []]
    # Alone it cannot know the class that it has never seen.
    assert found["hospitals"]["local_0"][0]["balanced_accuracy"] <= 2 / 3 + 1e-6
