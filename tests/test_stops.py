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
        if record["round"] == stop:
            os.kill(os.getpid(), number)
    progress.Progress.add = stopping
    print("ended with", cli.main(arguments), flush=True)
"""


def run(*starts):
    """Start one process that trains once for each of (arguments, round, signal)."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(starts)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def command(workdir, arguments):
    options = [
        f"--config={Path(__file__).with_name('tiny.py')}",
        f"--config.rounds={ROUNDS}",
        "--config.client.epochs=1",
        "--config.checkpoint.keep_last=1",
        "--config.validation_fraction=0.3",
        "--config.model.name=linear",  # compiles in no time
    ]
    return ["train", *options, f"--workdir={workdir}", "--evaluate", *arguments]


def without_seconds(records):
    return [{key: record[key] for key in record if key != "seconds"} for record in records]


def content(workdir):
    """What every file of a run says, but for what is `NOT_COMPARED`; the checkpoints by round."""
    found = {}
    for file in workdir.rglob("*"):
        name = file.relative_to(workdir).as_posix()
        if file.is_file() and not name.startswith(tuple(NOT_COMPARED)):
            found[name] = file.read_bytes()
    lines = found["metrics.jsonl"].decode().splitlines()
    found["metrics.jsonl"] = without_seconds(map(json.loads, lines))
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    for number in checkpoints.rounds():
        saved = checkpoints.read_identity(number)  # with a digest of the state
        records = json.loads((checkpoints.folder / f"{number}/records/metadata").read_text())
        saved["records"] = without_seconds(records["records"])
        found[f"checkpoints/{number}"] = saved
    found["checkpoints"] = sorted(path.name for path in checkpoints.folder.iterdir())
    checkpoints.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_stopped_three_times_a_run_leaves_the_files_of_one_never_stopped(tmp_path, method):
    arguments = METHODS[method]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    again = command(stopped, arguments)
    first = run(
        (command(whole, arguments), 0, 0),
        (again, 3, signal.SIGTERM),
        (again, 5, signal.SIGINT),
        (again, 7, signal.SIGKILL),
    )
    assert first.returncode == -signal.SIGKILL, first.stderr
    said = [line for line in first.stdout.splitlines() if line.startswith("ended with")]
    assert said == ["ended with 0", "ended with 143", "ended with 130"]
    last = run((again, 0, 0))
    assert "ended with 0" in last.stdout, last.stderr
    expected, found = content(whole), content(stopped)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name
    assert json.loads(found["evaluation.json"])["round"] == BEST
    assert found["checkpoints"] == [str(BEST), str(ROUNDS)]
    assert {"predictions.csv", "learning_curves.png", "experiment.json"} < found.keys()
    if method == "top_k":
        assert f"updates/round_{ROUNDS:06d}.npz" in found
