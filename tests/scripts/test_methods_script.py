"""scripts/methods.py: every run is an experiment, and the tables say what was found."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import methods  # noqa: E402

from fedjax_med.cli import main as cli  # noqa: E402
from fedjax_med.experiment import components  # noqa: E402
from fedjax_med.experiment.plan import make_plan  # noqa: E402
from fedjax_med.experiment.resolve import settle  # noqa: E402

EVERY = methods.runs(methods.TABLES, (0, 1, 2))


def name_of(run):
    return "-".join((run.table, run.row, run.column))


@pytest.mark.parametrize("run", {run.changes: run for run in EVERY}.values(), ids=name_of)
def test_every_run_assembles(run):
    flags = [f"--config.{change}" for change in run.changes]
    _, parsed = cli.parse("train", [f"--config={ROOT / methods.CONFIG}", *flags])
    make_plan(settle(parsed.config), np.full(9, 10))


def test_tables_have_all_that_is_on_the_shelves():
    said = " ".join(" ".join(run.changes) for run in EVERY)
    for shelf in ("algorithms", "aggregators", "attacks"):
        for name in set(components.names(shelf)) - {"fed_avg", "mean"}:
            assert name in said, f"no run has {shelf}/{name}"


def found(workdir, run, balanced, **more):
    folder = methods.folder_of(run, workdir)
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
    methods.folder_of(gone, tmp_path).mkdir()
    (methods.folder_of(gone, tmp_path) / methods.DIVERGED).write_text("NaN")
    bits, *_ = [r for r in EVERY if r.row == "`top_k`, 1 %"]
    found(tmp_path, bits, 0.3)
    private, *_ = [r for r in EVERY if r.row == "five hospitals, each image, 8"]
    spent = {"epsilon": 7.987, "noise_multiplier": 0.8912}
    found(tmp_path, private, 0.2, privacy=spent)
    page = methods.document(EVERY, tmp_path)
    assert "| `scaffold` | 0.500 ± 0.250 | - | - |" in page
    assert "0.400 (12 %)" in page
    assert "| (diverged: 1) |" in page
    assert "| `top_k`, 1 % | 2.00 MB |" in page
    assert "| five hospitals, each image, 8 | 7.99 | 0.89 | 0.200 |" in page


def test_run_that_goes_wrong_is_told_and_one_that_is_there_is_not_trained(tmp_path):
    run = EVERY[0]._replace(changes=("algorithm.name=none_such",))
    job = (methods.folder_of(run, tmp_path), run, [])
    assert "none_such" in methods.train(job)[1]
    found(tmp_path, EVERY[1], 0.5)
    assert methods.train((methods.folder_of(EVERY[1], tmp_path), EVERY[1], []))[1] == ""
