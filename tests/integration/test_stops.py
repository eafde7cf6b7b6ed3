"""Every file of a run that was stopped and goes on equals that of a run never stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from fedjax_med.experiment.config import Checkpoint
from fedjax_med.run.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent.parent
ROUNDS, BEST = 8, 2
# What differs between two runs of one command, and why.
NOT_COMPARED = {
    "seconds": "an entry of the records: the time that a round took",
    "tensorboard": "a folder: scalars with dates, and a file for each start",
    "profile": "a folder: traces of times",
    # Of a checkpoint the content is compared, by round; Orbax names its files at random.
    "records": "a checksum in a checkpoint, of records with seconds",
    "checksum": "a checksum in a checkpoint, of what has that one",
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
    "on_disk": ["--config.image_storage=disk", "--config.ema_decay=0.5"],
    "without_validation": ["--config.validation_fraction=0", "--config.checkpoint.every=3"],
}
# Trains as often as the first argument says; each time stops itself after a round, by a signal. The
# best round, by validation, is an early one, so that each stop comes after it.
SCRIPT = f"""
import json, os, signal, sys
from fedjax_med.cli import main as cli
from fedjax_med.run import loop, metrics_writer

validate, add = loop._validate, metrics_writer.MetricsWriter.add

def scored(run, result, *others):
    score, found = 1 / (1 + abs(result.round - {BEST})), validate(run, result, *others)
    return found and found | {{"balanced_accuracy": score}}

loop._validate = scored
for arguments, stop, number in json.loads(sys.argv[1]):
    def stopping(self, record):
        add(self, record)
        if f"{{self._file.parent.name}} {{record['round']}}" == stop:
            if number == signal.SIGPIPE:  # whoever reads the output ends
                reading, writing = os.pipe()
                os.close(reading)
                os.dup2(writing, 1)
            else:
                os.kill(os.getpid(), number)
    metrics_writer.MetricsWriter.add = stopping
    kept = os.dup(1)
    code = cli.main(arguments)
    os.dup2(kept, 1)
    print("ended with", code, flush=True)
"""


def run(*starts, before=""):
    """Start one process that trains once for each of (arguments, "FOLDER ROUND", signal)."""
    return subprocess.run(
        [sys.executable, "-c", before + SCRIPT, json.dumps(starts)],
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
        f"--config={tiny.__file__}",
        f"--config.rounds={ROUNDS}",
        "--config.client.epochs=1",
        "--config.checkpoint.keep_last=1",
        "--config.validation_fraction=0.3",
        "--config.model.name=linear",  # compiles in no time
    ]
    return [name, *options, f"--workdir={workdir}", *evaluate.split(), *arguments]


def compared(values):
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


def saved_in(folder):
    """What each checkpoint in `folder` holds, by round; the state as its digest."""
    checkpoints, found = Checkpoints(folder.parent, Checkpoint(), read_only=True), {}
    for number in checkpoints.rounds():
        saved = compared(checkpoints.read_identity(number))  # with a digest of the state
        del saved["experiment"]["rounds"]  # which may be raised later, and is in experiment.json
        records = json.loads((folder / str(number) / "records" / "metadata").read_text())
        found[str(number)] = saved, list(map(compared, records["records"]))
    checkpoints.close()
    assert found.keys() == {path.name for path in folder.iterdir()}
    return found


def content(workdir):
    """What every file of one or more runs says, but for what is `NOT_COMPARED`."""
    found = {}
    for path in workdir.rglob("*"):
        name = path.relative_to(workdir).as_posix()
        if path.name == "metrics.jsonl":
            found[name] = [compared(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "checkpoints":
            found[name] = saved_in(path)
        elif path.is_file() and not {"checkpoints", *NOT_COMPARED} & set(name.split("/")):
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
    if method != "without_validation":
        assert json.loads(found["evaluation.json"])["round"] == BEST
        assert found["checkpoints"].keys() == {str(BEST), str(ROUNDS)}
    assert {"predictions.csv", "learning_curves.png", "experiment.json"} < found.keys()
    assert "report.html" in found
    if method == "top_k":
        assert f"updates/round_{ROUNDS:06d}.npz" in found


@pytest.mark.slow
def test_what_terminals_schedulers_and_pipes_end_loses_no_round(tmp_path):
    """No checkpoint is due before the last round."""
    arguments = [f"--config.checkpoint.every={ROUNDS}"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    again = command(stopped, arguments)
    process = run(
        (command(whole, arguments), "", 0),
        (again, "stopped 2", signal.SIGHUP),
        (again, "stopped 4", signal.SIGUSR1),
        (again, "stopped 5", signal.SIGPIPE),  # seen when round 6 is printed
        (again, "", 0),
    )
    ended = [128 + one for one in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE)]
    assert ends(process) == [0, *ended, 0], process.stderr
    for number in (2, 4, 6):
        assert f"Going on after round {number}." in process.stdout
    assert "Traceback" not in process.stderr
    assert_same_files(stopped, whole)


# Kills the process in the midst of what it writes: at the first call of a function on whose
# arguments `a` a condition holds, before it or when it is done.
KILLED = """
import os, pkgutil, signal

def kill_in(place, name, condition, done):
    owner = pkgutil.resolve_name(place)
    function = getattr(owner, name)
    def call(*a, **options):
        hit = eval(condition)
        result = function(*a, **options) if done or not hit else None
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call)

kill_in(*{!r})
"""
STORE, FILES = "fedjax_med.run.checkpoint_store:Store", "fedjax_med.files"
PLACES = {
    "a checkpoint that has no name yet": (FILES, "sync_tree", "a[0].name == '6'", True),
    "before an older one is removed": (STORE, "remove", "True", False),
    "when an older one has lost its name": (
        STORE,
        "clear",
        "any(p.name.isdigit() for p in (a[0].folder / '.unfinished').glob('*'))",
        False,
    ),
    "the records": (FILES, "_give_name", "a[1].name == 'metrics.jsonl'", False),
    "a report": (FILES, "_give_name", "a[1].name == 'evaluation.json'", False),
    "the report for people": (FILES, "_give_name", "a[1].name == 'report.html'", False),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    process = run((command(workdir, []), "", 0))
    assert ends(process) == [0], process.stderr
    return workdir


SETTINGS = """
import os
os.environ |= {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg"}
os.environ |= {"JAX_THREEFRY_PARTITIONABLE": "0", "JAX_RANDOM_SEED_OFFSET": "3"}
"""


@pytest.mark.slow
def test_settings_that_would_change_every_number_change_no_file(whole, tmp_path):
    process = run((command(tmp_path / "run", []), "", 0), before=SETTINGS)
    assert ends(process) == [0], process.stderr
    assert "JAX_ENABLE_X64=True would change every number" in process.stderr
    assert_same_files(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_killed_while_it_writes_a_run_leaves_the_files_of_one_never_stopped(whole, tmp_path, place):
    again = command(tmp_path / "run", [])
    first = run((again, "", 0), before=KILLED.format(PLACES[place]))
    assert first.returncode == -signal.SIGKILL, (first.stdout, first.stderr)
    last = run((again, "", 0))
    assert ends(last) == [0], last.stderr
    assert_same_files(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_run_that_goes_on_for_more_rounds_leaves_the_files_of_a_longer_one(whole, tmp_path):
    """It was complete between two scheduled checkpoints."""
    constant = ["--config.client.schedule=constant", "--config.checkpoint.keep_last=2"]
    longer, first = tmp_path / "longer", tmp_path / "first"
    process = run(
        (command(longer, constant), "", 0),
        (command(first, [*constant, "--config.rounds=5"]), "", 0),
        (command(first, constant), "", 0),
    )
    assert ends(process) == [0, 0, 0], process.stderr
    assert_same_files(first, longer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "second", "result"),
    [
        ("crossvalidate", "--folds=2", "fold_1", "crossvalidation.json"),
        ("compare", "--seeds=0", "centralized", "comparison.json"),
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
    found = assert_same_files(stopped, whole)
    assert result in found
    assert ("report.html" in found) == (name == "compare")
