"""scripts/methods.py: every run is an experiment, and the tables say what was found."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import methods  # noqa: E402
from studies import runner, tables, text  # noqa: E402

from fedjax_med.cli import main as cli  # noqa: E402
from fedjax_med.experiment import components  # noqa: E402
from fedjax_med.experiment.plan import make_plan  # noqa: E402
from fedjax_med.experiment.resolve import settle  # noqa: E402

EVERY = tables.runs(list(tables.TABLES), (0, 1, 2))


def name_of(run):
    return "-".join((run.table, run.row, run.column))


@pytest.mark.parametrize(
    "run", {tuple(tables.flags(run.changes)): run for run in EVERY}.values(), ids=name_of
)
def test_every_run_assembles(run):
    make_plan(settle(runner.experiment_of(run)), np.full(9, 10))


def test_a_run_is_the_configuration_with_its_changes_its_seed_and_its_fold():
    run, *_ = [r for r in EVERY if (r.row, r.column, r.seed) == ("`ditto`", "3 classes each", 7)]
    flags = ["--config.algorithm.name=ditto", "--config.algorithm.options.weight=0.1"]
    flags += ["--config.partition.name=labels_per_client", "--config.partition.options.k=3"]
    flags += ["--config.seed=7", "--config.fold=2"]
    _, parsed = cli.parse("train", [f"--config={ROOT / tables.CONFIG}", *flags])
    assert runner.experiment_of(run) == parsed.config
    assert run.name == "algorithms `ditto` 3 classes each seed 7"


def test_tables_have_all_that_is_on_the_shelves():
    said = " ".join(" ".join(tables.flags(run.changes)) for run in EVERY)
    for shelf in ("algorithms", "aggregators", "attacks"):
        for name in set(components.names(shelf)) - {"fed_avg", "mean"}:
            assert name in said, f"no run has {shelf}/{name}"


def found(workdir, run, balanced, **more):
    folder = runner.folder_of(run, workdir)
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"balanced_accuracy": balanced, **more}))
    lines = [json.dumps({"round": r, "bytes_up": 1_000_000}) for r in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))


def test_page_says_what_the_runs_found(tmp_path):
    first = [run for run in EVERY if (run.row, run.column) == ("`scaffold`", "equal")]
    for run, balanced in zip(first, (0.25, 0.5, 0.75), strict=True):
        found(tmp_path, run, balanced)
    door, *_ = [r for r in EVERY if (r.row, r.column) == ("`median`", "`backdoor`")]
    found(tmp_path, door, 0.4, backdoors=[{"success": 0.125}])
    gone, *_ = [r for r in EVERY if (r.row, r.column) == ("`mean`", "`sign_flip`")]
    runner.folder_of(gone, tmp_path).mkdir()
    (runner.folder_of(gone, tmp_path) / runner.DIVERGED).write_text("NaN")
    bits, *_ = [r for r in EVERY if r.row == "`top_k`, 1 %"]
    found(tmp_path, bits, 0.3)
    private, *_ = [r for r in EVERY if r.row == "five hospitals, each image, 8"]
    spent = {"epsilon": 7.987, "noise_multiplier": 0.8912}
    found(tmp_path, private, 0.2, privacy=spent)
    page = text.document(EVERY, tmp_path)
    assert "| `scaffold` | 0.500 ± 0.250 | - | - |" in page
    assert "0.400 (12 %)" in page
    assert "| (diverged: 1) |" in page
    assert "| `top_k`, 1 % | 2.00 MB |" in page
    assert "| five hospitals, each image, 8 | 7.99 | 0.89 | 0.200 |" in page
    flags = "`--config.algorithm.name=fed_prox` `--config.algorithm.options.mu=0.01`"
    assert f"| `fed_prox` | {flags} |" in page


def test_the_command_writes_the_tables_that_it_is_given(tmp_path, monkeypatch, capsys):
    out = tmp_path / "methods.md"
    monkeypatch.setattr(methods, "OUT", out)
    asked = ["--data_dir=X", f"--workdir={tmp_path}", "--write_only"]
    assert methods.main([*asked, "--tables=privacy,compression", "--seeds=0"]) == 0
    page = out.read_text()
    assert 0 < page.index("## Differential privacy") < page.index("## Compression")
    assert "## Algorithms" not in page
    with pytest.raises(SystemExit, match="2"):
        methods.main([*asked, "--tables=privacies"])
    assert "got privacies" in capsys.readouterr().err


def test_a_folder_belongs_to_one_experiment_and_one_code(tmp_path, monkeypatch):
    run = EVERY[0]
    folder = runner.folder_of(run, tmp_path)
    assert runner.folder_of(run._replace(table="other", row="other"), tmp_path) == folder
    turned = dict(reversed(run.changes.items()))
    assert runner.folder_of(run._replace(changes=turned), tmp_path) == folder
    other = [run._replace(seed=1), run._replace(changes={"rounds": 2})]
    assert len({folder, *(runner.folder_of(one, tmp_path) for one in other)}) == 3
    monkeypatch.setattr(runner, "code_version", lambda: "another")
    assert runner.folder_of(run, tmp_path) != folder


# Takes no images: the folders of the data are not looked at.
QUICK = {
    "dataset.name": "lesions",
    "dataset.options.train_size": 90,
    "dataset.options.test_size": 9,
    "image_size": 16,
    "rounds": 2,
    "num_clients": 3,
}


@pytest.mark.slow
def test_what_is_missing_is_trained_and_what_goes_wrong_is_told(tmp_path, capfd):
    wrong = EVERY[0]._replace(row="wrong", changes={"algorithm.name": "none_such"})
    there = EVERY[1]
    good = EVERY[0]._replace(row="good", changes=QUICK)
    found(tmp_path, there, 0.5)
    folders = runner.Folders("", str(tmp_path / "cache"), tmp_path)
    assert runner.train_missing([wrong, there, good, good], folders, 2) == 1
    told = capfd.readouterr()
    assert "[2 of 2] algorithms good equal seed 0" in told.out
    assert "round 2/2" not in told.out
    assert "algorithms wrong equal seed 0: " in told.err
    assert "none_such" in told.err
    folder = runner.folder_of(good, tmp_path)
    log = (folder / "log.txt").read_text()
    assert log.startswith("fedjax-med train --config=")
    assert "round 2/2" in log
    assert 0 <= json.loads((folder / "evaluation.json").read_text())["balanced_accuracy"] <= 1
    assert not (runner.folder_of(there, tmp_path) / "log.txt").exists()


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(tmp_path, capfd):
    burst = {"client.optimizer.options.learning_rate": 1e30}
    run = EVERY[0]._replace(changes=QUICK | burst)
    folders = runner.Folders("", str(tmp_path / "cache"), tmp_path)
    assert runner.train_missing([run], folders, 1) == 0
    assert "diverged" in capfd.readouterr().out
    assert "NaN or infinity" in (runner.folder_of(run, tmp_path) / runner.DIVERGED).read_text()
    assert runner.is_done(runner.folder_of(run, tmp_path))
    assert str(text.find([run], tmp_path)) == "(diverged: 1)"


def test_every_client_of_a_run_has_room_for_the_same_number(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(runner, "train", lambda job: given.append(job) or 0)
    monkeypatch.setattr(runner, "cache_programs", lambda folder: None)
    run = EVERY[0]
    assert runner.train_run(run, runner.Folders("data", "cache", tmp_path)) == 0
    (job,) = given
    assert job.capacity == runner.CAPACITY == 1024
    assert (job.data_dir, job.cache_dir) == ("data", "cache")
    assert (job.workdir, job.evaluate) == (runner.folder_of(run, tmp_path), "last")
