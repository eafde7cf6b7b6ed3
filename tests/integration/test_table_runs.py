"""Whole runs on a table as hospitals keep it: audit, train, resume, evaluate, crossvalidate."""

import csv
import json
from pathlib import Path

import drawn_tables
import pytest

from fedjax_med.cli import main as cli

TINY = Path(__file__).parent.parent / "support" / "tiny.py"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Images and a table in the form of HAM10000, of 5 sites, with lesions of several images."""
    return drawn_tables.ham10000(tmp_path_factory.mktemp("ham") / "ham")


def call(command, table, tmp_path, *more):
    return cli.main(
        [
            command,
            f"--config={TINY}",
            f"--data_dir={table.parent}",
            f"--cache_dir={tmp_path / 'cache'}",
            "--config.dataset.name=table",
            f"--config.dataset.options.path={table}",
            "--config.dataset.options.group=lesion_id",
            "--config.num_clients=0",
            *more,
        ]
    )


@pytest.fixture
def lesions(table):
    return {
        row["image_id"]: row["lesion_id"] for row in csv.DictReader(table.read_text().splitlines())
    }


def predicted(folder):
    """The images that a run was tested on."""
    rows = csv.DictReader((folder / "predictions.csv").read_text().splitlines())
    return {Path(row["image"]).stem: row["group"] for row in rows}


@pytest.mark.slow
def test_a_table_from_the_audit_to_a_resumed_run(table, tmp_path, lesions, capsys):
    options = [
        "--config.dataset.options.folders=HAM10000_images_part_1+HAM10000_images_part_2",
        "--config.dataset.options.site=dataset",
        "--config.dataset.options.test_fraction=0.2",
    ]
    out = tmp_path / "audit.json"
    assert call("audit", table, tmp_path, *options, f"--out={out}") == 0
    said = capsys.readouterr()
    assert "60  groups of images (120 of 120 images have a lesion_id" in said.out
    assert "classes by dx, site by dataset, group by lesion_id. 96 images of Train and 24 of" in (
        said.err
    )
    assert json.loads(out.read_text())["groups"]["column"] == "lesion_id"
    workdir = [f"--workdir={tmp_path / 'run'}", "--config.client.schedule=constant"]
    train = ["train", table, tmp_path, *options, *workdir, "--evaluate"]
    assert call(*train, "--config.rounds=2") == 0
    said = capsys.readouterr().out
    assert "Divided by the sites of the table, not by --config.partition." in said
    assert "Clients: 0 is site_0, 1 is site_1, 2 is site_2, 3 is site_3, 4 is site_4." in said
    found = predicted(tmp_path / "run")
    assert len(found) == 24
    assert all(found[name] == lesions[name] for name in found)
    assert not {lesions[name] for name in lesions.keys() - found.keys()} & set(found.values())
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["balanced_accuracy"] > 0.3
    assert evaluation["site_names"] == [f"site_{site}" for site in range(5)]
    assert call(*train, "--config.rounds=4") == 0
    assert "round 2" in capsys.readouterr().out
    assert cli.main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
    moved = table.with_name("moved.csv")
    moved.write_bytes(table.read_bytes())
    same = [f"--config.dataset.options.path={moved}", "--config.rounds=4"]
    assert call(*train, *same) == 0
    capsys.readouterr()
    again = train[:-1]  # without --evaluate, which minds the test images first
    assert call(*again, "--config.dataset.options.split_seed=1", "--config.rounds=4") == 2
    assert "dataset.options.split_seed: the checkpoint has 0" in capsys.readouterr().err
    moved.write_text(moved.read_text().replace("_0024306,bkl", "_0024306,nv"))
    assert call(*again, *same) == 2
    assert "the train images, their labels or their division" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_and_clients_keep_lesions_together_and_no_test_set_is_needed(
    table, tmp_path, lesions, capsys
):
    rounds = "--config.rounds=2"
    run = [f"--workdir={tmp_path / 'folds'}", "--folds=3", rounds, "--config.num_clients=2"]
    assert call("crossvalidate", table, tmp_path, *run) == 0
    folds = [predicted(tmp_path / "folds" / f"fold_{fold}") for fold in range(3)]
    assert sum(map(len, folds)) == len(lesions)
    groups = [set(fold.values()) for fold in folds]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    capsys.readouterr()
    run = [f"--workdir={tmp_path / 'run'}", rounds, "--config.num_clients=2"]
    assert call("train", table, tmp_path, *run) == 0
    assert call("train", table, tmp_path / "other", *run, "--evaluate") == 2
    assert "--config.dataset.options.test_fraction=0.2" in capsys.readouterr().err
    out = tmp_path / "written"
    assert call("partition", table, tmp_path, f"--out={out}", "--config.num_clients=2") == 0
    held = [{lesions[path.stem] for path in (out / f"client_{n}").rglob("*.png")} for n in (0, 1)]
    assert held[0]
    assert not held[0] & held[1]
    capsys.readouterr()
    by_site = [f"--out={tmp_path / 'again'}", "--config.dataset.options.site=dataset"]
    assert call("partition", table, tmp_path, *by_site) == 2
    assert "already divided by the sites of its table" in capsys.readouterr().err
