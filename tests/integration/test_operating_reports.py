"""Whole runs whose evaluation has operating points."""

import csv
import json
from pathlib import Path

import drawn_lesions
import numpy as np
import pytest

from fedjax_med.cli import main as cli

TINY = Path(__file__).parent.parent / "support" / "tiny.py"
CLASS = "scaly"  # one of those that the tiny experiment draws


def call(command, tmp_path, *more):
    return cli.main(
        [
            command,
            f"--config={TINY}",
            f"--workdir={tmp_path / 'run'}",
            f"--cache_dir={tmp_path / 'cache'}",
            "--config.rounds=2",
            "--config.model.name=linear",
            "--config.validation_fraction=0.4",
            *more,
        ]
    )


def test_a_class_that_does_not_exist_is_told_before_training(tmp_path, capsys):
    assert call("train", tmp_path, "--config.operating.classes=scally") == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("fedjax-med")]
    assert "no 'scally'" in line
    assert f"Did you mean '{CLASS}'?" in line
    assert not (tmp_path / "run" / "experiment.json").exists()


@pytest.mark.slow
def test_resuming_with_another_specificity_only_evaluates_again(tmp_path, capsys):
    found = {}
    for specificity in (0.9, 0.5):
        asked = [f"--config.operating.classes={CLASS}", "--config.calibrate=True"]
        asked += [f"--config.operating.specificity={specificity}"]
        asked += ["--config.operating.prevalence=0.1"] * (specificity == 0.5)
        assert call("train", tmp_path, "--evaluate", *asked) == 0
        said = capsys.readouterr().out
        assert f"threshold of {100 * specificity:g} % specificity in validation" in said
        assert ("of 1,000 people, 10 % of whom have it" in said) == (specificity == 0.5)
        evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
        operating = evaluation.pop("operating")
        row = found[specificity] = operating["classes"][CLASS]
        assert operating["specificity"] == specificity
        assert ("screening" in row) == (specificity == 0.5)
        sizes = np.array(evaluation["validation"]["clients"]["n"])
        assert 0 < row["validation_others"] <= sizes.sum()
        # The rows of predictions.csv, and the threshold, say the same.
        table = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
        rows = list(csv.DictReader(table))
        called = np.array([np.float32(one[CLASS]) >= row["threshold"] for one in rows])
        mine = np.array([one["label"] == CLASS for one in rows])
        assert row["sensitivity"] == pytest.approx(called[mine].mean())
        assert row["specificity"] == pytest.approx((~called[~mine]).mean())
        found[specificity, "others"] = evaluation
    assert found[0.5]["threshold"] < found[0.9]["threshold"]
    assert found[0.5, "others"] == found[0.9, "others"]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert call("train", tmp_path, "--evaluate") == 0  # without any
    assert "operating" not in json.loads((tmp_path / "run" / "evaluation.json").read_text())


@pytest.mark.slow
def test_without_validation_images_there_is_a_dash_with_the_reason(tmp_path, capsys):
    asked = [f"--config.operating.classes={CLASS}", "--config.calibrate=True"]
    more = ["--config.validation_fraction=0", "--config.operating.prevalence=0.1"]
    assert call("train", tmp_path, "--evaluate", *asked, *more) == 0
    assert "no threshold: no validation images of other classes." in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    row = evaluation["operating"]["classes"][CLASS]
    assert row["threshold"] is row["sensitivity"] is row["screening"]["ppv"] is None
    assert row["roc_sensitivity"] is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return drawn_lesions.draw(tmp_path_factory.mktemp("mates"), 160, 20)


def of_lesions(command, folder, tmp_path, *more):
    return cli.main(
        [
            command,
            f"--data_dir={folder}",
            f"--workdir={tmp_path / 'run'}",
            f"--cache_dir={folder / 'cache'}",
            "--config.image_size=16",
            "--config.rounds=1",
            "--config.num_clients=2",
            "--config.model.name=linear",
            "--config.validation_fraction=0.3",
            f"--config.groups.path={folder / 'lesions.csv'}",
            "--config.groups.column=lesion",
            "--config.operating.classes=b,a",
            "--config.operating.specificity=0.7",
            *more,
        ]
    )


@pytest.mark.slow
def test_operating_points_are_reported_without_group_mates_too(folder, tmp_path, capsys):
    assert of_lesions("train", folder, tmp_path, "--evaluate") == 0
    assert "a without group mates in Train: 8 of 16 images" in capsys.readouterr().out
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    whole, rest = evaluation["operating"], evaluation["groups"]["without_mates"]["operating"]
    assert list(whole["classes"]) == list(rest["classes"]) == ["b", "a"]
    mates = set(evaluation["groups"]["mates_in_train"])
    table = (tmp_path / "run" / "predictions.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(table) if row["image"] not in mates]
    for name in "ab":
        row = rest["classes"][name]
        assert (row["n"], row["others"]) == (8, 8)
        assert row["threshold"] == whole["classes"][name]["threshold"]
        called = [np.float32(one[name]) >= row["threshold"] for one in rows if one["label"] == name]
        assert row["sensitivity"] == np.mean(called)


@pytest.mark.slow
def test_folds_have_thresholds_of_their_own(folder, tmp_path, capsys):
    assert of_lesions("crossvalidate", folder, tmp_path, "--folds=2") == 0
    said = capsys.readouterr().out
    assert "| b: sensitivity at the threshold |" in said
    result = json.loads((tmp_path / "run" / "crossvalidation.json").read_text())
    row = result["operating"]["classes"]["b"]
    for k, fold in enumerate(result["folds"]):
        of = fold["operating"]["classes"]["b"]
        assert row["thresholds"][f"fold_{k}"] == of["threshold"]
    assert (row["n"], row["others"]) == (30, 30)
    called = []
    for name, threshold in row["thresholds"].items():
        table = (tmp_path / "run" / name / "predictions.csv").read_text().splitlines()
        rows = [one for one in csv.DictReader(table) if one["label"] == "b"]
        called += [np.float32(one["b"]) >= threshold for one in rows]
    assert row["sensitivity"] == pytest.approx(np.mean(called))


@pytest.mark.slow
def test_comparisons_have_the_operating_points_of_every_setting(folder, tmp_path, capsys):
    assert of_lesions("compare", folder, tmp_path, "--seeds=0") == 0
    assert "| b: specificity at the threshold |" in capsys.readouterr().out
    found = json.loads((tmp_path / "run" / "comparison.json").read_text())["operating"]
    assert found["specificity"] == 0.7
    of = {}
    for name in ("federated", "centralized", "local_0", "local_1"):
        file = tmp_path / "run" / "seed_0" / name / "evaluation.json"
        of[name] = json.loads(file.read_text())["operating"]["classes"]["b"]
    for key in ("sensitivity", "specificity", "roc_sensitivity"):
        row = found["classes"]["b"]
        for name in ("federated", "centralized"):
            assert row[name][key] == [of[name][key]]
        mean = (of["local_0"][key] + of["local_1"][key]) / 2
        assert row["local"][key] == [pytest.approx(mean)]
