"""Every file of a run that was stopped and goes on equals that of a run never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedjax_med.checkpoint import Checkpoints
from fedjax_med.config import Checkpoint

ROOT = Path(__file__).parent.parent
ROUNDS, BEST = 8, 2
# What differs between two runs of one command, and why.
NOT_COMPARED = {
    "seconds": "an entry of the records: the time that a round took",
    "tensorboard/": "scalars with dates, and a file for each start",
    "profile/": "traces of times",
    "checkpoints/": "Orbax names files at random: what they hold is compared",
}
METHODS = {
    "fed_avg": ["--config.calibrate=True"],
    "scaffold": [
        "--config.algorithm.name=scaffold",
        "--config.client.optimizer.name=sgd",
        "--config.client.optimizer.options.learning_rate=0.1",
    ],
    "ditto": ["--config.algorithm.name=ditto", "--config.validate_every=3"],
    "top_k": ["--config.transforms=top_k", "--config.keep_updates=True"],
    "private": ["--config.privacy.unit=client", "--config.privacy.noise_from=seed"],
    "cohort": ["--config.cohort.name=uniform", "--config.server_optimizer.name=adam"],
    "on_disk": ["--config.images=disk", "--config.average=0.5"],
}
# Trains as often as the first argument says; each time stops itself after a round, by a signal. The
# best round, by validation, is an early one, so that each stop comes after it.
SCRIPT = f"""
import json, os, sys
from fedjax_med import cli, loop, progress

validate, add = loop._validate, progress.Progress.add

def scored(assembly, models, validation, number):
    score = 1 / (1 + abs(number - {BEST}))
    return validate(assembly, models, validation, number) | {{"balanced_accuracy": score}}

loop._validate = scored
for arguments, stop, number in json.loads(sys.argv[1]):
    def stopping(self, record):
        add(self, record)
        if f"{{self._file.parent.name}} {{record['round']}}" == stop:
            os.kill(os.getpid(), number)
    progress.Progress.add = stopping
    print("ended with", cli.main(arguments), flush=True)
"""


def run(*starts):
    """Start one process that trains once for each of (arguments, "FOLDER ROUND", signal)."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(starts)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def ends(process):
    """The exit codes of the commands that came to their end."""
    lines = process.stdout.splitlines()
    return [int(line.split()[-1]) for line in lines if line.startswith("ended with")]


def command(workdir, arguments, name="train", evaluate="--evaluate"):
    options = [
        f"--config={Path(__file__).with_name('tiny.py')}",
        f"--config.rounds={ROUNDS}",
        "--config.client.epochs=1",
        "--config.checkpoint.keep_last=1",
        "--config.validation_fraction=0.3",
        "--config.model.name=linear",  # compiles in no time
    ]
    return [name, *options, f"--workdir={workdir}", *evaluate.split(), *arguments]


def without_seconds(records):
    return [{key: record[key] for key in record if key != "seconds"} for record in records]


def saved_in(folder):
    """What each checkpoint in `folder` holds, by round; the state as its digest."""
    checkpoints, found = Checkpoints(folder.parent, Checkpoint(), read_only=True), {}
    for number in checkpoints.rounds():
        found[str(number)] = identity = checkpoints.read_identity(number)
        records = json.loads((folder / str(number) / "records" / "metadata").read_text())
        identity["records"] = without_seconds(records["records"])
    checkpoints.close()
    assert found.keys() == {path.name for path in folder.iterdir()}
    return found


def content(workdir):
    """What every file of one or more runs says, but for what is `NOT_COMPARED`."""
    found = {}
    for path in workdir.rglob("*"):
        name = path.relative_to(workdir).as_posix()
        if path.name == "metrics.jsonl":
            found[name] = without_seconds(map(json.loads, path.read_text().splitlines()))
        elif path.name == "checkpoints":
            found[name] = saved_in(path)
        elif path.is_file() and not any(f"{part}/" in NOT_COMPARED for part in name.split("/")):
            found[name] = path.read_bytes()
    return found


def assert_same_files(stopped, whole):
    expected, found = content(whole), content(stopped)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_stopped_three_times_a_run_leaves_the_files_of_one_never_stopped(tmp_path, method):
    arguments = METHODS[method]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    again = command(stopped, arguments)
    first = run(
        (command(whole, arguments), "", 0),
        (again, "stopped 3", signal.SIGTERM),
        (again, "stopped 5", signal.SIGINT),
        (again, "stopped 7", signal.SIGKILL),
    )
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert ends(first) == [0, 128 + signal.SIGTERM, 128 + signal.SIGINT]
    last = run((again, "", 0))
    assert ends(last) == [0], last.stderr
    found = assert_same_files(stopped, whole)
    assert json.loads(found["evaluation.json"])["round"] == BEST
    assert found["checkpoints"].keys() == {str(BEST), str(ROUNDS)}
    assert {"predictions.csv", "learning_curves.png", "experiment.json"} < found.keys()
    if method == "top_k":
        assert f"updates/round_{ROUNDS:06d}.npz" in found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "second", "result"),
    [
        ("crossvalidate", "--folds=2", "fold_1", "crossvalidation.json"),
        ("compare", "--seeds=0", "pooled", "comparison.json"),
    ],
)
def test_a_series_of_runs_that_was_stopped_leaves_the_files_of_one_never_stopped(
    tmp_path, name, options, second, result
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    small = ["--config.num_clients=2"]
    again = command(stopped, small, name, options)
    first = run(
        (command(whole, small, name, options), "", 0),
        (again, f"{second} 5", signal.SIGTERM),
        (again, f"{second} 7", signal.SIGKILL),
    )
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert ends(first) == [0, 128 + signal.SIGTERM]
    last = run((again, "", 0))
    assert ends(last) == [0], last.stderr
    assert result in assert_same_files(stopped, whole)
