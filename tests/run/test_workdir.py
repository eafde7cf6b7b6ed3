import contextlib
import errno
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedjax_med import files
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, plan, resolve
from fedjax_med.files import writing
from fedjax_med.run import train, workdir
from fedjax_med.run.workdir import exclusive, read_workdir

OTHERS = ('"x"', "true", "null", "[1]", "-1", "NaN", "Infinity")


def test_workdir_without_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match="fedjax-med train"):
        read_workdir(tmp_path)
    (tmp_path / "experiment.json").write_text("{")
    for text in ("{", "[1]", "{}"):
        (tmp_path / "experiment.json").write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            read_workdir(tmp_path)


@pytest.mark.parametrize(
    "value", ["{}", '{"x": 1}', *map('{{"noise_multiplier": {}}}'.format, OTHERS)]
)
def test_a_changed_entry_of_the_noise_is_told(tmp_path, value):
    text = f'{{"experiment": {{}}, "data_dir": "", "data": "", "privacy": {value}}}'
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(UserError, match="a number of at least 0 as its privacy's noise_mult"):
        read_workdir(tmp_path)


def test_two_runs_do_not_train_in_one_workdir(tmp_path):
    with exclusive(tmp_path / "run"):
        with pytest.raises(UserError, match="another run"), exclusive(tmp_path / "run"):
            pass
        with exclusive(tmp_path / "other"):
            pass
    with exclusive(tmp_path / "run"):  # the first let go of it
        pass


def test_a_lock_that_another_run_has_replaced_does_not_count(tmp_path, monkeypatch):
    """It was opened; then the run that held it removed it, and a third one made its own."""
    lock = tmp_path / "run" / ".lock"
    flock = files.fcntl.flock

    def replaced(stream, how):
        lock.unlink()
        lock.touch()
        flock(stream, how)

    monkeypatch.setattr(files.fcntl, "flock", replaced)
    with pytest.raises(UserError, match="another run"), exclusive(tmp_path / "run"):
        pass
    assert lock.exists()


@pytest.mark.parametrize("fault", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_not_taken_for_another_run(
    tmp_path, monkeypatch, capsys, fault
):
    def fail(stream, how):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(files.fcntl, "flock", fail)
    with exclusive(tmp_path / "run"):
        (tmp_path / "run" / "work").touch()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"cannot be locked ({os.strerror(fault)})" in err


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_lock_whose_run_ends_meanwhile_is_taken_anew(tmp_path, monkeypatch, when):
    """The run that held it removed it, and the folder, in which nothing else was written."""
    lock = tmp_path / "run" / ".lock"
    flock, folder, ended = files.fcntl.flock, workdir.make_folder, []

    def end():
        if not ended:
            ended.append(when)
            lock.unlink(missing_ok=True)
            lock.parent.rmdir()

    def made(path):
        folder(path)
        if when == "before it is opened":
            end()

    def locked(stream, how):
        if when == "before it is locked":
            end()
        flock(stream, how)

    monkeypatch.setattr(workdir, "make_folder", made)
    monkeypatch.setattr(files.fcntl, "flock", locked)
    with exclusive(tmp_path / "run"):
        assert ended
        assert lock.exists()
        with pytest.raises(UserError, match="another run"), exclusive(tmp_path / "run"):
            pass


def test_runs_that_begin_and_end_at_once_never_hold_the_workdir_together(tmp_path):
    inside, most, held = [], [], []

    def run(_):
        for _ in range(100):
            with contextlib.suppress(UserError), exclusive(tmp_path / "run"):
                inside.append(0)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()
                held.append(0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert max(most) == 1
    assert held


def test_what_stands_where_the_lock_should_is_not_waited_for_nor_emptied(tmp_path):
    for name in ("pipe", "link"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / ".lock")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link" / ".lock").symlink_to(tmp_path / "precious")
    for name in ("pipe", "link"):
        with exclusive(tmp_path / name):
            (tmp_path / name / "work").touch()
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_cannot_be_written_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="No space left") as caught, writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"), exclusive(tmp_path / "file"):
        pass


def test_a_workdir_that_vanishes_does_not_hide_what_ended_the_run(tmp_path):
    def end():
        (tmp_path / "run" / ".lock").unlink()
        (tmp_path / "run").rmdir()
        raise UserError("the reason")

    with pytest.raises(UserError, match="the reason"), exclusive(tmp_path / "run"):
        end()


def modes(folder):
    paths = [folder, *folder.rglob("*")]
    return {stat.S_IMODE(path.lstat().st_mode) for path in paths if not path.is_symlink()}


def test_a_private_workdir_is_closed_before_and_its_files_after(tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir(0o755)
    other.touch(0o644)
    with workdir.private(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "state").touch()
        (folder / "link").symlink_to(other)
    assert modes(folder) == {0o700, 0o600}
    assert stat.S_IMODE(other.stat().st_mode) == 0o644


PRIVATE = {
    "personal": {"algorithm": "fed_bn"},
    "stateful": {"algorithm": "scaffold"},
    "updates": {"keep_updates": True},
    "unsent": {"transforms": [config.Spec("top_k")]},
    "alone": {"setting": "local"},
    "secret": {"privacy": config.Privacy(unit="client")},
}
OPEN = {
    "usual": {},
    "together": {"setting": "centralized"},
    "no secret": {"privacy": config.Privacy(unit="client", noise_from="seed")},
}


@pytest.mark.parametrize("name", PRIVATE | OPEN)
def test_what_hospitals_alone_have_and_secrets_make_a_workdir_private(name):
    fields = {"model": config.Spec("linear"), **(PRIVATE | OPEN)[name]}
    if "algorithm" in fields:
        fields["algorithm"] = config.Spec(fields["algorithm"])
    if name == "personal":
        fields["model"] = config.Spec("cnn")
    experiment = resolve.complete(config.Experiment(image_size=16, num_clients=2, **fields))
    made = plan.make_plan(resolve.settle(experiment), [2, 2], [2, 2])
    assert train._has_secrets(made) == (name in PRIVATE)


def test_every_workdir_is_checked_before_the_first_run(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    jobs = [
        train.TrainJob(config.Experiment(), "", "", tmp_path / name)
        for name in ("new", "file/fold_1")
    ]
    monkeypatch.setattr(train, "train", lambda job: pytest.fail("trained"))
    with pytest.raises(UserError, match=r"cannot write .*fold_1 \(.*file is a file\)"):
        train.train_all(jobs)
    other = jobs[0]._replace(experiment=config.Experiment(seed=2**32))
    with pytest.raises(UserError, match=r"config\.seed to be 0 <= seed < 2\*\*32"):
        train.train_all([jobs[0], other])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"cannot write .*new \(.* is not writable\)"):
        train.train_all(jobs[:1])
    assert not (tmp_path / "new").exists()
