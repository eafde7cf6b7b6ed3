"""What is left on the disk when the power is cut in mid-run: copies of a file system in use."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from fedjax_med.cli import main as cli
from fedjax_med.experiment.config import Checkpoint
from fedjax_med.run.checkpoint import Checkpoints

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 30
COMMAND = [
    "train",
    f"--config={tiny.__file__}",
    f"--config.rounds={ROUNDS}",
    "--config.client.epochs=1",
    "--config.model.name=linear",
    "--config.checkpoint.every=1",
    "--config.checkpoint.keep_last=1",
]


@contextlib.contextmanager
def mounted(image, folder):
    """The file system in `image`, which writes nothing by itself for five minutes."""
    folder.mkdir(exist_ok=True)
    options = ["-o", "loop,commit=300"]
    subprocess.run(["mount", *options, str(image), str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def image(tmp_path):
    """An empty ext4 file system in a file."""
    file = tmp_path / "disk.img"
    file.touch()
    os.truncate(file, 64 * 2**20)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(file)], check=True, capture_output=True)
        with mounted(file, tmp_path / "try"):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("making and mounting a file system needs root and mkfs.ext4")
    return file


def lines(workdir):
    file = workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def cut(process, image, workdir, number):
    """Copy the disk as it is once `number` rounds are done: what a power cut would leave."""
    deadline = time.monotonic() + 200
    while lines(workdir) < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    done = lines(workdir)
    copy = image.with_name(f"cut-{number}.img")
    shutil.copyfile(image, copy)
    process.send_signal(signal.SIGCONT)
    return copy, done


def newest_whole(workdir):
    """The latest round whose checkpoint can be read, and all rounds that have one."""
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    rounds, sound = checkpoints.rounds(), []
    for number in rounds:
        with contextlib.suppress(Exception):
            sound.append(checkpoints.read_identity(number) and number)
    checkpoints.close()
    return max(sound, default=0), rounds


@pytest.mark.slow
def test_a_power_cut_leaves_a_checkpoint_from_which_the_run_ends_in_the_same_bits(
    image, tmp_path, capsys
):
    with mounted(image, tmp_path / "disk") as disk:
        workdir = disk / "run"
        process = subprocess.Popen(
            [sys.executable, "-m", "fedjax_med", *COMMAND, f"--workdir={workdir}"],
            cwd=ROOT,
            env=os.environ,
            stdout=subprocess.DEVNULL,
        )
        cuts = [cut(process, image, workdir, number) for number in (8, 16, 24)]
        assert process.wait(200) == 0
        expected = (workdir / "checkpoints" / str(ROUNDS) / "identity" / "metadata").read_text()
    for copy, done in cuts:
        with mounted(copy, tmp_path / "cut") as disk:
            newest, rounds = newest_whole(disk / "run")
            assert newest >= done - 3, (done, rounds)
            assert newest == max(rounds), "what has its name is whole"
            if copy == cuts[0][0]:
                assert cli.main([*COMMAND, f"--workdir={disk / 'run'}"]) == 0
                assert f"Going on after round {newest}." in capsys.readouterr().out
                checkpoint = disk / "run" / "checkpoints" / str(ROUNDS)
                found = (checkpoint / "identity" / "metadata").read_text()
                assert json.loads(found)["digest"] == json.loads(expected)["digest"]
