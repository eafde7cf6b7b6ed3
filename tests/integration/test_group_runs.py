"""Whole runs on images of lesions: the reports of train, crossvalidate and compare."""

import csv
import hashlib
import json

import drawn_lesions
import pytest

from fedjax_med.cli import main as cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three hospitals' worth of drawn images; a third of Test is of lesions that Train has."""
    return drawn_lesions.draw(tmp_path_factory.mktemp("lesions"), 120, 70)


def call(command, folder, tmp_path, *more):
    return cli.main(
        [
            command,
            f"--data_dir={folder}",
            f"--workdir={tmp_path / 'run'}",
            f"--cache_dir={tmp_path / 'cache'}",
            "--config.image_size=16",
            "--config.rounds=2",
            "--config.num_clients=2",
            "--config.model.name=linear",
            f"--config.groups.path={folder / 'lesions.csv'}",
            "--config.groups.column=lesion",
            *more,
        ]
    )


@pytest.mark.slow
def test_a_run_is_tested_with_and_without_group_mates(folder, tmp_path, capsys):
    assert call("train", folder, tmp_path, "--evaluate") == 0
    said = capsys.readouterr().out
    assert "8 training images of a lesion that is also in Test, such as a/a26Train.png" in said
    assert "24 of the images are in groups of two or more" in said
    assert "8 have a group mate in Train; 16 have none" in said
    run = tmp_path / "run"
    found = json.loads((run / "evaluation.json").read_text())["groups"]
    assert found["without_mates"]["n"] == 16
    assert len(found["mates_in_train"]) == 8
    assert {"accuracy", "balanced_accuracy", "macro_auroc"} < found["without_mates"].keys()
    rows = list(csv.DictReader((run / "predictions.csv").read_text().splitlines()))
    assert {row["image"]: row["group"] for row in rows}["a/a0Test.png"] == "a13"
    saved = json.loads((run / "experiment.json").read_text())
    digest = hashlib.sha256((folder / "lesions.csv").read_bytes()).hexdigest()
    assert saved["groups"] == digest
    assert json.loads((run / "audit.json").read_text())["groups"]["sha256"] == digest
    assert cli.main(["evaluate", f"--workdir={run}"]) == 0
    assert call("train", folder, tmp_path, "--config.groups.in_test=drop") == 2
    assert "their division over the clients differ" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_and_comparisons_are_by_group(folder, tmp_path):
    assert call("crossvalidate", folder, tmp_path, "--folds=2") == 0
    lesions = []
    for fold in range(2):
        table = (tmp_path / "run" / f"fold_{fold}" / "predictions.csv").read_text().splitlines()
        lesions.append({row["group"] for row in csv.DictReader(table)})
    assert not lesions[0] & lesions[1]
    result = json.loads((tmp_path / "run" / "crossvalidation.json").read_text())
    assert result["groups"] == {"groups": 30, "images": 60}
    assert call("compare", folder, tmp_path / "other", "--seeds=0") == 0
    result = json.loads((tmp_path / "other/run/comparison.json").read_text())
    assert result["groups"]["without_mates"]["n"] == 16
