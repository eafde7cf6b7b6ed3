"""The same program in two real processes on this machine, each with two virtual devices."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
import toy

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.execution import multihost
from fedjax_med.experiment.config import Checkpoint
from fedjax_med.run.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent.parent
TINY = f"--config={tiny.__file__}"
SHARDED = "--config.map_clients=sharded"


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def start(processes, head, *arguments, own=()):
    """Start `head` in each of `processes`, with `arguments` and what is each one's `own`."""
    port = free_port()
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONUNBUFFERED": "1"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, *head, *map(str, arguments), *(own[process] if own else ())),
                *(f"--coordinator=localhost:{port}", f"--num_processes={processes}"),
                f"--process_id={process}",
            ],
            cwd=ROOT,
            env=os.environ | devices | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]


def start_training(workdir, *arguments, own=()):
    head = ["-m", "fedjax_med", "train", TINY, SHARDED, f"--workdir={workdir}"]
    return start(2, head, *arguments, own=own)


def finish(processes):
    """The exit codes, what was printed, and the errors."""
    try:
        said = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], *zip(*said, strict=True)


def train_alone(workdir, *arguments):
    """Train in this process, with four devices."""
    return cli.main(["train", TINY, SHARDED, f"--workdir={workdir}", *map(str, arguments)])


def lines(workdir):
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def params(workdir, number):
    """The arrays of a checkpoint, whatever they belong to."""
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        state = checkpoints._store.item(number, state=ocp.args.StandardRestore())
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    finally:
        checkpoints.close()


def assert_same_run(one, other, number):
    """To a few float32 roundings: where devices add up their clients, the order is another."""
    for mine, theirs in zip(params(one, number), params(other, number), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(lines(one), lines(other), strict=True):
        assert mine["round"] == theirs["round"]
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        for name in ("loss", "accuracy", "balanced_accuracy"):
            score = pytest.approx(theirs["validation"][name], rel=1e-4, abs=1e-5)
            assert mine["validation"][name] == score


@pytest.mark.slow
def test_two_processes_train_what_one_trains_and_the_first_alone_writes(tmp_path):
    four = ["--config.rounds=4", "--evaluate"]
    codes, out, err = finish(start_training(tmp_path / "two", *four))
    assert codes == [0, 0], err
    assert "sharded_sequential (as asked for) on 4 cpu device(s) of 2 processes" in out[0]
    assert out[0].count("round 4/4") == 1
    assert "balanced accuracy" in out[0]
    assert not re.search("round|clients|Policy", out[1])  # Gloo tells of itself in both
    assert err[1] == ""
    assert [one["round"] for one in lines(tmp_path / "two")] == [1, 2, 3, 4]
    assert train_alone(tmp_path / "one", *four) == 0
    assert_same_run(tmp_path / "two", tmp_path / "one", 4)
    files = [sorted(path.name for path in (tmp_path / run).iterdir()) for run in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_run_goes_from_one_process_to_two_and_back_and_stops_where_it_is_asked(tmp_path, capsys):
    rounds = [
        "--config.rounds=600",
        "--config.client.epochs=1",
        "--config.client.schedule=constant",
    ]
    few = [*rounds, "--config.rounds=2"]
    workdir = tmp_path / "run"
    assert train_alone(workdir, *few) == 0
    processes = start_training(workdir, *rounds)
    deadline = time.monotonic() + 150
    while len(lines(workdir)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)  # the one that does not write
    codes, out, err = finish(processes)
    assert codes == [128 + signal.SIGTERM] * 2, err
    assert "Going on after round 2" in out[0]
    done = len(lines(workdir))
    assert f"Stopped after round {done}" in out[0]
    capsys.readouterr()
    last = [*rounds, f"--config.rounds={done + 1}"]
    assert train_alone(workdir, *last) == 0
    told = capsys.readouterr().out
    assert f"Going on after round {done}." in told
    assert "processes 2 -> 1" in told
    assert train_alone(tmp_path / "whole", *last) == 0
    assert_same_run(workdir, tmp_path / "whole", done + 1)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_within_seconds_in_one_line(tmp_path, killed):
    processes = start_training(tmp_path / "run", "--config.rounds=2000", "--config.client.epochs=1")
    deadline = time.monotonic() + 150
    while len(lines(tmp_path / "run")) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[killed].kill()
    began = time.monotonic()
    other = 1 - killed
    assert processes[other].wait(60) == 2
    assert time.monotonic() - began < 10
    _, _, err = finish(processes)
    assert err[other].startswith(
        f"fedjax-med (process {other}): process {killed} has ended (killed, "
    )
    assert err[other].count("\n") == 1


@pytest.mark.slow
def test_processes_that_do_not_agree_end_in_one_line_each(tmp_path):
    own = [("--config.seed=0",), ("--config.seed=1",)]
    codes, _, err = finish(start_training(tmp_path / "run", own=own))
    assert codes == [2, 2]
    assert err[0].strip() == (
        "fedjax-med (process 0): expected the same config.seed in every process, got 0 in process "
        "0 and 1 in process 1."
    )
    assert err[1].strip() == "fedjax-med (process 1): ended, since process 0 could not go on."
    assert not (tmp_path / "run").exists()


# What the processes say to each other, without training.
AGREE = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from fedjax_med import errors
from fedjax_med.execution import multihost as distributed

folder, coordinator, _, process = sys.argv[1:]
me = int(process.partition("=")[2])
distributed.initialise(coordinator.partition("=")[2], 2, me, 60)
assert distributed.is_main() == (me == 0)
assert distributed.on_main(lambda: "here") == ("here" if me == 0 else None)
assert distributed.text_from_main(lambda: f"from {me}") == "from 0"
assert distributed.first_signal([15] if me else []) == 15
assert distributed.first_signal([]) == 0
assert distributed.all_of(True) and not distributed.all_of(me == 0)

def look():
    there = [one.name for one in sorted(pathlib.Path(folder).iterdir())]
    pathlib.Path(folder, str(me)).touch()
    return there
assert distributed.main_first(look) == (["0"] if me else [])

mesh = jax.make_mesh((4,), ("clients",), axis_types=(AxisType.Auto,))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["clients"], []))
tree = (np.arange(8.0), {"a": np.float32(3), "b": np.arange(3)})
placed = distributed.place(tree, (split, whole))
assert [shard.data.tolist() for shard in placed[0].addressable_shards] == [
    [4.0 * me, 4.0 * me + 1], [4.0 * me + 2, 4.0 * me + 3]
]
jax.tree.map(np.testing.assert_array_equal, distributed.gather(placed), tree)
jax.tree.map(np.testing.assert_array_equal, distributed.local(placed[1]), tree[1])

bits = [np.array([-0.0, np.nan, 1e-40], np.float32), jnp.array([1.5], jnp.bfloat16),
        np.array(True), np.array(7, np.int32), np.zeros((0, 2))]
mine = bits if me == 0 else [np.ones(one.shape, one.dtype) for one in bits]
for got, sent in zip(distributed.from_main(mine), bits, strict=True):
    assert got.dtype == sent.dtype and got.tobytes() == np.asarray(sent).tobytes()

for failing in (0, 1):
    try:
        with distributed.together():
            if me == failing:
                raise ValueError("my own")
    except (ValueError, errors.UserError) as error:
        assert str(error) == ("my own" if me == failing else
                              f"ended, since process {failing} could not go on.")
    else:
        raise AssertionError("nobody was told")
"""


def test_processes_agree_place_gather_and_fail_together(tmp_path):
    codes, _, err = finish(start(2, ["-c", AGREE], tmp_path))
    assert codes == [0, 0], err


# What fails where the processes do not wait for each other, in the first or in all.
LEAVE = """
import sys
from fedjax_med import errors
from fedjax_med.cli import main as cli
from fedjax_med.execution import multihost as distributed

failing, coordinator, _, process = sys.argv[1:]
me = int(process.partition("=")[2])

def run(arguments):
    distributed.initialise(coordinator.partition("=")[2], 2, me, 60)
    if str(me) in failing:
        raise errors.UserError("my own")
    if failing == "a fault" and me:
        raise KeyError("a fault of the program")
    distributed.on_main(print)

cli._run, cli._PATIENCE = run, 3
sys.exit(cli.main([]))
"""


@pytest.mark.parametrize("failing", ["0", "01"])
def test_a_mistake_that_one_process_meets_with_ends_all_of_them_soon(failing):
    began = time.monotonic()
    codes, _, err = finish(start(2, ["-c", LEAVE], failing))
    assert time.monotonic() - began < 50  # seconds; JAX itself would wait for 60
    for process in map(int, failing):
        assert codes[process] == 2
        assert err[process] == f"fedjax-med (process {process}): my own\n"
    assert codes[1]
    if failing == "0":
        assert "process 0 has ended" in err[1]


def test_a_fault_of_the_program_in_one_process_ends_the_other_soon():
    began = time.monotonic()
    codes, _, err = finish(start(2, ["-c", LEAVE], "a fault"))
    assert time.monotonic() - began < 50  # seconds, most of them to start; JAX would wait for 60
    assert codes == [2, 1]
    assert err[0].startswith("fedjax-med (process 0): process 1 has ended")
    assert err[0].count("\n") == 1
    assert "KeyError: 'a fault of the program'" in err[1]


# The first process is killed while Python's lock is held for most of the time.
BUSY = """
import sys
from fedjax_med.execution import multihost as distributed

_, coordinator, _, process = sys.argv[1:]
distributed.initialise(coordinator.partition("=")[2], 2, int(process.partition("=")[2]), 60)
distributed.all_of(True)
print("met", file=sys.__stdout__, flush=True)  # all but the first print nothing
while True:
    sum(range(1000))
"""


def test_a_busy_process_ends_without_a_word_of_jax_when_the_first_one_is_killed():
    processes = start(2, ["-c", BUSY], "")
    assert processes[1].stdout.readline() == "met\n"
    processes[0].kill()
    assert processes[1].wait(60) == 2
    _, _, err = finish(processes)
    assert err[1].startswith("fedjax-med (process 1): process 0 has ended (killed, ")
    assert err[1].count("\n") == 1


@pytest.mark.parametrize(
    ("active", "name"), [(False, "=sequential"), (True, "=sharded_sequential")]
)
def test_too_little_memory_names_a_strategy_that_may_be_asked_for(
    monkeypatch, capsys, active, name
):
    def fail(arguments):
        raise MemoryError

    monkeypatch.setattr(cli, "_run", fail)
    monkeypatch.setattr(multihost, "active", lambda: active)
    monkeypatch.setattr(multihost, "leave", lambda code: code)
    assert cli.main([]) == 2
    assert f"--config.map_clients{name}, " in capsys.readouterr().err


def test_alone_nothing_is_waited_for_and_nothing_copied():
    tree = {"a": jax.numpy.ones(2)}
    for same in (multihost.gather, multihost.local, multihost.from_main):
        assert same(tree) is tree
    assert multihost.is_main()
    assert multihost.first_signal([2]) == 2
    assert multihost.main_first(lambda: 1) == multihost.on_main(lambda: 1) == 1
    with pytest.raises(ValueError, match="mine"), multihost.together():
        raise ValueError("mine")
    toy.assert_same_bits(multihost.place(tree, jax.devices()[0]), tree)


@pytest.mark.parametrize("process", [0, 1])
def test_processes_that_do_not_come_are_told_in_one_line(tmp_path, process):
    port = free_port()
    command = [sys.executable, "-m", "fedjax_med", "train", TINY, "--connect_timeout=1"]
    flags = [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={process}"]
    done = subprocess.run(
        [*command, *flags, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"not all processes met at localhost:{port} within 1 s" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--num_processes=2"], "together, in every process"),
        (["--coordinator=a:1", "--process_id=0"], "together, in every process"),
        (["--distributed", "--process_id=0"], "without --distributed"),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "0 <= --process_id < --num_processes, got 2 and 2",
        ),
        (
            ["--coordinator=a", "--num_processes=2", "--process_id=1"],
            "--coordinator=HOST:PORT, got 'a'",
        ),
    ],
)
def test_mistakes_in_the_flags_end_in_one_line(tmp_path, capsys, arguments, hint):
    assert train_alone(tmp_path / "run", *arguments) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert hint in err[0]


def test_a_cluster_that_is_none_is_told(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"cannot be joined at the cluster.* Give --coordinator"):
        multihost.initialise("", None, None, 5)
