"""The commands `train` and `evaluate`, end to end on a tiny experiment."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data.images import checksums
from fedjax_med.execution import backend
from fedjax_med.experiment import components, config, load_data
from fedjax_med.experiment.config import Checkpoint
from fedjax_med.run import loop
from fedjax_med.run import train as run_train
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.metrics_writer import record

ROOT = Path(__file__).parent.parent.parent
TINY = f"--config={tiny.__file__}"
# A process of its own has one device, except where the suite is about several.
SHARDED = os.environ.get("FEDJAX_MED_MAP_CLIENTS", "").startswith("sharded")
FLAGS = os.environ["XLA_FLAGS"]
FLAGS = FLAGS if SHARDED else re.sub("device_count=[0-9]+", "device_count=1", FLAGS)
ROUNDS = 16  # enough for a kill to come in time, however fast they are


def train(workdir, *arguments):
    """Train in this process; the exit code."""
    return cli.main(["train", TINY, f"--workdir={workdir}", *map(str, arguments)])


def start(workdir, *arguments, script=None, **options):
    """Train in a process of its own."""
    head = (
        [sys.executable, "-m", "fedjax_med"] if script is None else [sys.executable, "-c", script]
    )
    return subprocess.Popen(
        [*head, "train", TINY, f"--workdir={workdir}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FLAGS, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def lines(workdir):
    file = workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def wait(process, condition):
    deadline = time.monotonic() + 200
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


def digest(workdir, number=ROUNDS):
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        return checkpoints.read_identity(number)["digest"]
    finally:
        checkpoints.close()


def records(workdir):
    """What metrics.jsonl says, without the times."""
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) | {"seconds": 0} for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped, in a process of its own."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    code, out, err = finish(start(workdir))
    assert code == 0, err
    return workdir, out


def test_a_run_leaves_all_that_it_promises(whole):
    workdir, out = whole
    assert [record["round"] for record in records(workdir)] == list(range(1, ROUNDS + 1))
    told = {"round", "train_loss", "validation", "clients", "seconds", "bytes_up", "bytes_down"}
    assert set(records(workdir)[0]) == told
    for name in ("experiment.json", "audit.json", "learning_curves.png"):
        assert (workdir / name).stat().st_size > 0
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert "Policy rarest" in out
    assert re.search(r"round 16/16  loss \d\.\d+  val loss .* \d+\.\d s  left 0:00", out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [".", "metrics.jsonl", "checkpoints/2", "checkpoints/4", "checkpoints/6"]
)
def test_killed_at_any_moment_the_same_command_ends_in_the_same_bits(whole, tmp_path, moment):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait(process, (workdir / moment).exists)
    process.kill()
    code, _, _ = finish(process)
    assert code == -signal.SIGKILL
    assert lines(workdir) < ROUNDS
    code, out, err = finish(start(workdir))
    assert code == 0, err
    assert digest(workdir) == digest(whole[0])
    assert records(workdir) == records(whole[0])
    if moment.startswith("checkpoints"):
        assert re.search(r"Going on after round \d+", out)


# The commit of a checkpoint is the renaming of its temporary folder: the process dies just before.
KILL_IN_SAVE = """
import os, signal, sys
from orbax.checkpoint._src.path import atomicity
from fedjax_med.cli import main as cli

finalize = atomicity.AtomicRenameTemporaryPath.finalize
async def die(self, *arguments, **options):
    if self.get_final().name == "4":
        os.kill(os.getpid(), signal.SIGKILL)
    return await finalize(self, *arguments, **options)
atomicity.AtomicRenameTemporaryPath.finalize = die
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_during_a_save_the_same_command_ends_in_the_same_bits(whole, tmp_path):
    workdir = tmp_path / "run"
    code, _, err = finish(start(workdir, script=KILL_IN_SAVE))
    assert code == -signal.SIGKILL, err
    left = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert "2" in left
    assert "4" not in left
    unfinished = (workdir / "checkpoints" / ".unfinished").iterdir()
    assert any(path.name.startswith("4.") for path in unfinished), "the kill came too late"
    code, out, err = finish(start(workdir))
    assert code == 0, err
    assert "Going on after round 2" in out
    assert digest(workdir) == digest(whole[0])
    assert records(workdir) == records(whole[0])
    left = [path.name for path in (workdir / "checkpoints").iterdir()]
    assert all(name.isdigit() for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_exits_and_the_run_goes_on(whole, tmp_path, number):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait(process, lambda: lines(workdir) >= 1)
    process.send_signal(number)
    code, out, err = finish(process)
    assert code == 128 + number, err
    done = lines(workdir)
    assert f"Stopped after round {done}; the same command goes on" in out
    assert "Traceback" not in err
    code, out, _ = finish(start(workdir))
    assert code == 0
    assert f"Going on after round {done}" in out
    assert digest(workdir) == digest(whole[0])


@pytest.mark.slow
@pytest.mark.every_client_map
def test_a_truncated_checkpoint_falls_back_and_ends_in_the_same_bits(whole, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert train(workdir) == 0
    expected = digest(workdir)
    for file in (workdir / "checkpoints" / "16" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    capsys.readouterr()
    assert train(workdir) == 0
    out = capsys.readouterr().out
    assert "checkpoint of round 16 is damaged" in out
    assert "Going on after round" in out
    assert digest(workdir) == expected


@pytest.mark.slow
@pytest.mark.every_client_map
def test_same_config_and_seed_give_the_same_bits_and_another_seed_others(tmp_path):
    for name in ("a", "b"):
        assert train(tmp_path / name, "--config.rounds=2") == 0
    assert train(tmp_path / "c", "--config.rounds=2", "--config.seed=1") == 0
    assert digest(tmp_path / "a", 2) == digest(tmp_path / "b", 2) != digest(tmp_path / "c", 2)
    assert records(tmp_path / "a") == records(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vmap", "sharded", "sharded_vmap"])
def test_every_map_over_clients_trains(tmp_path, name, capsys):
    for run in ("sequential", name):
        assert train(tmp_path / run, "--config.rounds=2", f"--config.map_clients={run}") == 0
    within = {"sharded": "sharded_sequential"}.get(name, name)
    assert f"clients run {within} (as asked for) on 4 cpu" in capsys.readouterr().out
    losses = [records(tmp_path / run)[-1]["train_loss"] for run in ("sequential", name)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def interrupted_in(number):
    """A `record` that asks to stop in round `number`."""

    def stopped(*arguments):
        one = record(*arguments)
        if one["round"] == number:
            signal.raise_signal(signal.SIGINT)
        return one

    return stopped


@pytest.mark.slow
def test_a_stop_in_the_last_round_of_a_run_ends_a_series_of_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "record", interrupted_in(2))
    series = ["crossvalidate", TINY, "--folds=2", "--config.rounds=2", f"--workdir={tmp_path}"]
    assert cli.main(series) == 128 + signal.SIGINT
    assert (tmp_path / "fold_0" / "evaluation.json").exists()  # it was complete
    assert not (tmp_path / "fold_1").exists()


@pytest.fixture
def accelerator(monkeypatch):
    """What ``auto`` does on an accelerator, on a device of the memory that is set."""
    memory = SimpleNamespace(bytes=float("inf"))
    monkeypatch.setattr(backend, "bytes_free", lambda: memory.bytes)
    monkeypatch.setattr(backend, "pick", lambda platform, *sizes: PICK("gpu", 1, *sizes[1:]))
    return memory


PICK = backend.pick
AUTO = ["--config.map_clients=auto", "--config.rounds=4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "said"),
    [(1e12, "vmap (fits"), (1e5, "sequential (vmap does not fit")],
)
def test_auto_takes_what_fits_the_memory(tmp_path, accelerator, capsys, memory, said):
    accelerator.bytes = memory
    assert train(tmp_path / "auto", *AUTO) == 0
    assert f"clients run {said} its memory) on" in capsys.readouterr().out
    asked = said.partition(" ")[0]
    assert train(tmp_path / asked, f"--config.map_clients={asked}", "--config.rounds=4") == 0
    assert digest(tmp_path / "auto", 4) == digest(tmp_path / asked, 4)


@pytest.mark.slow
def test_auto_keeps_to_what_computed_the_checkpoint(tmp_path, accelerator, monkeypatch, capsys):
    assert train(tmp_path / "whole", *AUTO) == 0
    stopped = tmp_path / "stopped"
    monkeypatch.setattr(loop, "record", interrupted_in(2))
    assert train(stopped, *AUTO) == 128 + signal.SIGINT
    monkeypatch.undo()  # from here on a CPU, which would pick another
    capsys.readouterr()
    assert train(stopped, *AUTO) == 0
    out = capsys.readouterr().out
    assert "clients run vmap (as before) on" in out
    assert "may differ" not in out
    assert digest(stopped, 4) == digest(tmp_path / "whole", 4)
    assert evaluate(stopped) == 0
    assert "may differ" not in capsys.readouterr().out


@pytest.mark.every_client_map
def test_complete_run_is_left_alone(tmp_path, capsys):
    assert train(tmp_path, "--config.rounds=2") == 0
    before = digest(tmp_path, 2), records(tmp_path)
    assert train(tmp_path, "--config.rounds=2") == 0
    assert "All is done already: 2 rounds." in capsys.readouterr().out
    assert (digest(tmp_path, 2), records(tmp_path)) == before


def one_line(capsys):
    err = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(err) == 1, err
    return err[0]


def test_workdir_of_another_experiment_is_refused_and_nothing_is_lost(tmp_path, capsys):
    assert train(tmp_path, "--config.rounds=2") == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    code = train(tmp_path, "--config.rounds=2", "--config.client.batch_size=4", "--config.seed=5")
    assert code == 2
    message = one_line(capsys)
    assert "client.batch_size: the checkpoint has 8, this run 4" in message
    assert "seed: the checkpoint has 0, this run 5" in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_nan_stops_the_run_with_the_round_and_the_client(tmp_path, capsys):
    rate = "--config.client.optimizer.options.learning_rate=1e38"
    assert train(tmp_path, rate) == 2
    message = one_line(capsys)
    assert re.search(r"round \d: client \d sent NaN or infinity", message)
    assert "learning_rate" in message
    assert lines(tmp_path) < ROUNDS


def test_server_step_to_infinity_stops_the_run_and_is_not_saved(tmp_path, capsys):
    server = [
        "--config.server_optimizer.name=adamw",
        "--config.server_optimizer.options.learning_rate=1e38",
        "--config.server_optimizer.options.weight_decay=1e10",
    ]
    assert train(tmp_path, *server, "--config.checkpoint.every=1") == 2
    assert "round 1: the update of the server's state gave NaN or infinity" in one_line(capsys)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_a_model_that_overflows_in_validation_is_told_with_the_round(tmp_path, capsys):
    assert train(tmp_path, "--config.server_optimizer.options.learning_rate=1e38") == 2
    assert re.search(r"round \d: .*(NaN or infinity)", one_line(capsys))


def test_the_best_is_among_the_scheduled_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "record", interrupted_in(3))
    assert train(tmp_path) == 128 + signal.SIGINT
    checkpoints = Checkpoints(tmp_path, Checkpoint(every=2), read_only=True)
    assert checkpoints.rounds() == [2, 3]
    assert checkpoints.read_identity(3)["validation"]["balanced_accuracy"] >= 0
    assert checkpoints.best_first() == [2, 3]
    checkpoints.close()


@pytest.mark.slow
def test_checkpoints_that_cannot_be_read_are_neither_removed_nor_restarted_over(tmp_path, capsys):
    assert train(tmp_path, "--config.rounds=2") == 0
    for file in (tmp_path / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train(tmp_path, "--config.rounds=2") == 2
    assert "none of the checkpoints" in one_line(capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert train(tmp_path, "--config.rounds=2", "--begin_anew") == 0
    aside = tmp_path / "damaged-1"
    assert f"{aside}; beginning anew" in capsys.readouterr().out
    assert [path.name for path in (aside / "checkpoints").iterdir()] == ["2"]
    assert (aside / "metrics.jsonl").read_bytes() == before[tmp_path / "metrics.jsonl"]
    assert [record["round"] for record in records(tmp_path)] == [1, 2]
    assert train(tmp_path, "--config.rounds=2", "--begin_anew") == 0  # is no matter now
    assert "All is done already: 2 rounds." in capsys.readouterr().out


def test_interrupt_before_the_first_round_ends_in_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(load_data, "load", interrupted)
    assert train(tmp_path) == 130
    assert one_line(capsys) == "fedjax-med: interrupted."


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--config.rounds=0"], "rounds >= 1"),
        (["--config.client.batch_size=-1"], "batch_size >= 0"),
        (["--config.client.epochs=0"], "epochs >= 1"),
        (["--config.client.optimizer.options.learning_rate=nan"], "finite number"),
        (["--config.client.optimizer.options.learning_rate=-0.1"], "learning_rate >= 0"),
        (["--config.seed=99999999999999999999999"], "seed < 2**32"),
        (["--config.model.options.widths=('a',)"], "such as (32, 64, 128), got ('a',)"),
        (["--config.loss.label_smoothing=1.5"], "label_smoothing in"),
        (["--config.augment.min_scale=0.0"], "min_scale in"),
        (["--config.augment.hue=-1.0"], "hue >= 0"),
        (["--config.model.options.widths=(5,)"], "multiples of groups"),
        (["--config.model.options.groups=0"], "multiples of groups"),
        (["--config.model.options.dropout=1.0"], "dropout in"),
        (["--config.model.options.widths=(4, 4, 4, 4, 4)"], "at least 32 pixels"),
        (["--config.checkpoint.every=0"], "checkpoint.every >= 1"),
        (["--config.checkpoint.keep_best=-1"], "checkpoint.keep_best >= 0"),
        (["--config.client.optimizer.options.weight_decay=-1.0"], "weight_decay >= 0"),
        (["--config.client.optimizer.options.b1=1.5"], "b1 in [0, 1)"),
        (["--config.partition.name=dirichlet", "--config.partition.options.alpha=1e308"], "1e9"),
        (["--config.loss.class_balance=1.0"], "class_balance in"),
        (["--config.validation_fraction=1.0"], "validation_fraction in"),
        (["--config.map_clients=pmap"], "Did you mean 'vmap'"),
        (["--config.policy=rare"], "Did you mean 'rarest'"),
        (["--config.num_clients=-1"], "num_clients >= 1"),
        (["--config.dataset.name=image_folder"], "--data_dir"),
        (["--config.dataset.name=isic9", "--data_dir=/does/not/exist"], "/does/not/exist"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_two(tmp_path, capsys, arguments, hint):
    assert train(tmp_path / "run", *arguments) == 2
    assert hint in one_line(capsys)


def test_a_workdir_that_is_a_file_and_a_config_that_is_a_folder_are_told(tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    assert train(tmp_path / "run") == 2
    assert "is a file: expected a folder" in one_line(capsys)
    assert (tmp_path / "run").read_text() == "mine"
    assert cli.main(["train", f"--config={ROOT / 'configs'}"]) == 2
    assert "isic9.py" in one_line(capsys)


def test_out_of_memory_ends_in_one_line(tmp_path, monkeypatch, capsys):
    for error in (MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")):

        def fail(*arguments, error=error):
            raise error

        monkeypatch.setattr(load_data, "load", fail)
        assert train(tmp_path) == 2
        assert "batch_size" in one_line(capsys)


@pytest.fixture
def small_disk(tmp_path, request):
    """A file system of its own, of 600 kB or what the test asks for."""
    size = getattr(request, "param", "600k")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_read_only_workdir_ends_with_one_line_and_the_checkpoint_intact(small_disk, capsys):
    workdir, constant = small_disk / "run", "--config.client.schedule=constant"
    assert train(workdir, constant, "--config.rounds=2") == 0
    before = digest(workdir, 2)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    assert train(workdir, constant, "--config.rounds=4") == 2
    assert str(workdir) in one_line(capsys)
    assert train(small_disk / "new") == 2
    assert str(small_disk / "new") in one_line(capsys)
    assert digest(workdir, 2) == before


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["450k", "600k"], indirect=True)
def test_full_disk_ends_with_one_line_and_the_last_checkpoint_intact(small_disk, capsys):
    workdir = small_disk / "run"
    keep_all = "--config.checkpoint.keep_last=99"
    code = train(workdir, keep_all, "--config.checkpoint.every=1", "--config.rounds=40")
    assert code == 2
    message = one_line(capsys)
    assert str(workdir) in message
    assert "intact" in message
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    last = checkpoints.rounds()[-1]
    checkpoints.close()
    assert digest(workdir, last)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A class-folder data set of a hospital's own, drawn."""
    folder, cache = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("cache")
    spec = config.Spec("lesions", {"train_size": 72, "test_size": 18})
    dataset = components.build("datasets", spec, "", str(cache), 32)
    for name, split in (("Train", dataset.train), ("test", dataset.test)):
        for image, path in zip(split.image, split.name, strict=True):
            file = folder / name / str(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return folder


@pytest.mark.slow
@pytest.mark.every_client_map
def test_training_from_the_client_folders_gives_the_same_bits(pictures, tmp_path):
    own = ["--config.dataset.name=image_folder", f"--cache_dir={tmp_path / 'cache'}"]
    out = tmp_path / "divided"
    command = ["partition", TINY, *own, f"--data_dir={pictures}", f"--out={out}"]
    assert cli.main(command) == 0
    for name, folder in (("whole", pictures), ("folders", out)):
        code = train(tmp_path / name, *own, f"--data_dir={folder}", "--config.rounds=2")
        assert code == 0
    assert digest(tmp_path / "whole", 2) == digest(tmp_path / "folders", 2)
    assert records(tmp_path / "whole") == records(tmp_path / "folders")


def evaluate(workdir, *arguments):
    return cli.main(["evaluate", f"--workdir={workdir}", *arguments])


@pytest.mark.every_client_map
def test_evaluate_writes_the_report_from_the_checkpoint(whole, capsys):
    workdir, _ = whole
    assert evaluate(workdir) == 0
    out = capsys.readouterr().out
    result = json.loads((workdir / "evaluation.json").read_text())
    wanted = {"n", "accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "ece", "brier"}
    assert wanted | {"confusion_matrix", "per_class", "intervals", "clients"} <= set(result)
    assert result["n"] == 27
    assert np.sum(result["confusion_matrix"]) == 27
    assert len(result["clients"]["accuracy"]) == 3
    assert "balanced accuracy" in out
    assert (workdir / "confusion_matrix.png").stat().st_size > 0


SCORES = [0.2, 0.9, 0.4, 0.3, 0.5]


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Five rounds whose best by validation is neither the first nor the last that is kept."""
    count = iter(SCORES)
    scores = {"n": 1, "loss": 1.0, "accuracy": 0.5}
    monkeypatch.setattr(loop, "_validate", lambda *_: {**scores, "balanced_accuracy": next(count)})
    kept = ["--config.checkpoint.every=1", "--config.checkpoint.keep_best=2"]
    assert train(tmp_path, "--config.rounds=5", *kept) == 0
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]
    return tmp_path


@pytest.mark.parametrize(("which", "number"), [("best", 2), ("last", 5)])
def test_evaluate_takes_the_best_or_the_last_checkpoint(scored, which, number, capsys):
    assert evaluate(scored, f"--checkpoint={which}") == 0
    assert json.loads((scored / "evaluation.json").read_text())["round"] == number
    assert f"the model of round {number}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_experiment_says_which_checkpoint_is_tested(scored):
    def tested(*flags):
        assert evaluate(scored, *flags) == 0
        return json.loads((scored / "evaluation.json").read_text())["round"]

    assert tested() == 2
    again = ["--config.rounds=5", "--config.checkpoint.every=1", "--config.checkpoint.tested=last"]
    assert train(scored, *again, "--evaluate") == 0  # what is trained stays as it is
    assert json.loads((scored / "evaluation.json").read_text())["round"] == 5
    assert tested() == 5
    assert tested("--checkpoint=best") == 2


def test_evaluation_of_the_validation_part_is_that_of_the_round(whole):
    workdir, _ = whole
    assert evaluate(workdir) == 0
    found = json.loads((workdir / "evaluation.json").read_text())
    assert found["validation"] == records(workdir)[found["round"] - 1]["validation"]


def test_evaluation_of_a_run_that_is_not_complete_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_train, "stop_requests", lambda: contextlib.nullcontext([signal.SIGINT]))
    assert train(tmp_path) == 128 + signal.SIGINT
    assert evaluate(tmp_path) == 0
    assert f"not complete: 1 of {ROUNDS} rounds" in capsys.readouterr().out


@pytest.mark.slow
def test_test_images_that_come_later_are_evaluated_on(pictures, tmp_path, capsys):
    images, workdir = tmp_path / "images", tmp_path / "run"
    shutil.copytree(pictures / "Train", images / "Train")
    own = ["--config.dataset.name=image_folder", f"--data_dir={images}", "--config.rounds=1"]
    assert train(workdir, *own, f"--cache_dir={tmp_path / 'cache'}") == 0
    assert evaluate(workdir) == 2
    assert "no test images" in capsys.readouterr().err
    shutil.copytree(pictures / "test", images / "Test")
    assert evaluate(workdir) == 0  # in the run's own cache
    assert "test images are not those" in capsys.readouterr().out
    assert json.loads((workdir / "evaluation.json").read_text())["n"] == 18
    shutil.rmtree(next((images / "Train").iterdir()))
    shutil.rmtree(next((images / "Test").iterdir()))
    assert evaluate(workdir) == 2
    assert "train images or their division differ" in capsys.readouterr().err


@pytest.mark.slow
def test_more_rounds_than_asked_for_are_not_passed_off_as_fewer(tmp_path, capsys):
    constant = "--config.client.schedule=constant"
    assert train(tmp_path, constant, "--config.rounds=3") == 0
    capsys.readouterr()
    assert train(tmp_path, constant, "--config.rounds=2") == 2
    assert "has done 3 rounds already, more than --config.rounds=2" in one_line(capsys)
    assert json.loads((tmp_path / "experiment.json").read_text())["experiment"]["rounds"] == 3


DAMAGES = {
    "lost": lambda text: None,
    "empty": lambda text: "",
    "torn": lambda text: text[: len(text) // 3],
    "doubled": lambda text: text + text,
    "a line less": lambda text: "".join(text.splitlines(keepends=True)[1:]),
    "a line changed": lambda text: text.replace("0.", "1.", 1),
    "no text": lambda text: "\udcff\0" * 100,
    "a pipe": lambda text: None,
    "no number of a round": lambda text: text.replace('"round": 1,', '"round": 1e999,'),
    "no record": lambda text: text.replace('"clients"', '"others"', 1),
}


FEW = ("lost", "torn")  # the damages that are not slow tests


@pytest.mark.parametrize(
    "damage",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in DAMAGES],
)
def test_records_are_those_of_the_checkpoint_whatever_happened_to_their_file(
    tmp_path, capsys, damage
):
    assert train(tmp_path, "--config.rounds=2") == 0
    file = tmp_path / "metrics.jsonl"
    before = file.read_bytes()
    text = DAMAGES[damage](before.decode())
    file.unlink()
    if damage == "a pipe":
        os.mkfifo(file)
    elif text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    capsys.readouterr()
    assert train(tmp_path, "--config.rounds=2", "--evaluate") == 0
    assert file.read_bytes() == before
    said = capsys.readouterr().out
    assert "written anew from the checkpoint" in said
    assert (tmp_path / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_records_that_are_changed_while_the_run_goes_on_are_written_anew(
    tmp_path, capsys, monkeypatch, lost
):
    file, before = tmp_path / "metrics.jsonl", loop.check_finite

    def meddle(metrics, state, number, intact):
        before(metrics, state, number, intact)
        if number == 2:
            file.unlink() if lost else file.write_text("{}")

    monkeypatch.setattr(loop, "check_finite", meddle)
    assert train(tmp_path, "--config.rounds=3") == 0
    assert [record["round"] for record in records(tmp_path)] == [1, 2, 3]
    assert "was changed while the run went on" in capsys.readouterr().out


def test_rounds_without_records_are_named_where_no_checkpoint_has_them(tmp_path, capsys):
    assert train(tmp_path, "--config.rounds=2") == 0
    state = tmp_path / "checkpoints" / "2" / "identity" / "metadata"
    saved = json.loads(state.read_text())  # as a version before has saved it
    state.write_text(
        json.dumps({key: saved[key] for key in saved.keys() - {"records", "checksum"}})
    )
    (tmp_path / "checkpoints" / "2" / checksums.NAME).unlink()
    file = tmp_path / "metrics.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[1])
    capsys.readouterr()
    assert train(tmp_path, "--config.rounds=2") == 0
    assert f"{file} lacks round 1" in capsys.readouterr().out


def test_another_experiment_without_a_checkpoint_is_refused_too(tmp_path, capsys):
    late = ["--config.rounds=3", "--config.checkpoint.every=99"]
    assert train(tmp_path, *late) == 0
    shutil.rmtree(tmp_path / "checkpoints")
    capsys.readouterr()
    assert train(tmp_path, *late, "--config.seed=5") == 2
    assert "seed: the checkpoint has 0, this run 5" in one_line(capsys)
    assert lines(tmp_path) == 3
    assert train(tmp_path, *late) == 0


def test_a_run_that_could_not_begin_leaves_no_folder(tmp_path):
    assert train(tmp_path / "run", "--config.num_clients=5000") == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_workdir_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train("~/run", "--config.rounds=1") == 0
    assert evaluate("~/run") == 0
    assert (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.0])
def test_interrupt_while_loading_ends_in_one_line(tmp_path, seconds):
    process = start(tmp_path / "run", "--config.rounds=100000")
    wait(process, lambda: "jaxlib" in Path(f"/proc/{process.pid}/maps").read_text())
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err


def test_evaluation_without_a_test_set_is_refused_before_training(pictures, tmp_path, capsys):
    shutil.copytree(pictures / "Train", tmp_path / "images" / "Train")
    own = ["--config.dataset.name=image_folder", f"--data_dir={tmp_path / 'images'}"]
    assert train(tmp_path / "run", *own, f"--cache_dir={tmp_path / 'cache'}", "--evaluate") == 2
    assert "no test images" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.every_client_map
def test_train_evaluates_at_the_end_if_asked(tmp_path):
    assert train(tmp_path, "--config.rounds=1", "--evaluate") == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["round"] == 1


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "--workdir=FOLDER"),
        (["--workdir=/does/not/exist"], "experiment.json"),
        (["--workdir=x", "--checkpoint=first"], "best, last"),
        (["--workdir=x", "--config=configs/isic9.py"], "evaluate takes no --config"),
    ],
)
def test_evaluate_tells_mistakes_in_one_line(capsys, arguments, hint):
    assert cli.main(["evaluate", *arguments]) == 2
    assert hint in one_line(capsys)


@pytest.mark.slow
def test_without_validation_training_and_evaluation_still_work(tmp_path):
    assert train(tmp_path, "--config.rounds=2", "--config.validation_fraction=0.0") == 0
    assert records(tmp_path)[0]["validation"] == {}
    assert evaluate(tmp_path) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["round"] == 2


@pytest.mark.slow
def test_a_second_start_compiles_nothing_that_the_first_one_compiled(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # the suite's own
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    cache = tmp_path / "cache"
    compiled = []
    for name in ("first", "second"):
        run = start(tmp_path / name, f"--cache_dir={cache}", "--config.rounds=1")
        code, _, err = finish(run)
        assert code == 0, err
        compiled.append({file.name for file in (cache / "compiled").glob("*-cache")})
        assert ("Drawing" in err) == (name == "first")
    assert len(compiled[0]) > 10
    assert compiled[0] == compiled[1]


@pytest.mark.slow
def test_calibration_changes_how_sure_the_model_is_and_not_what_it_says(tmp_path):
    found = {}
    # A model that is too sure: few validation images lower its confidence, and never raise it.
    sure = ["--config.model.name=linear", "--config.client.optimizer.options.learning_rate=3.0"]
    for wanted in (False, True):
        flags = ["--evaluate", f"--config.calibrate={wanted}", "--config.rounds=2", *sure]
        assert train(tmp_path / "run", *flags) == 0  # the second time, only evaluated again
        found[wanted] = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    plain, calibrated = found[False], found[True]
    assert "temperature" not in plain
    assert calibrated["temperature"] != 1
    assert calibrated["confusion_matrix"] == plain["confusion_matrix"]
    assert calibrated["log_loss"] != plain["log_loss"]
    for name, value in calibrated["before_calibration"].items():
        assert value == plain[name]
    assert calibrated["validation"] == plain["validation"]
