import contextlib
import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedjax_med.errors import UserError
from fedjax_med.files import writing
from fedjax_med.run import workdir
from fedjax_med.run.workdir import exclusive, read_workdir


def test_workdir_without_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match="fedjax-med train"):
        read_workdir(tmp_path)
    (tmp_path / "experiment.json").write_text("{")
    for text in ("{", "[1]", "{}"):
        (tmp_path / "experiment.json").write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
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
    flock = workdir.fcntl.flock

    def replaced(stream, how):
        lock.unlink()
        lock.touch()
        flock(stream, how)

    monkeypatch.setattr(workdir.fcntl, "flock", replaced)
    with pytest.raises(UserError, match="another run"), exclusive(tmp_path / "run"):
        pass
    assert lock.exists()


@pytest.mark.parametrize("when", ["before it is opened", "before it is locked"])
def test_a_lock_whose_run_ends_meanwhile_is_taken_anew(tmp_path, monkeypatch, when):
    """The run that held it removed it, and the folder, in which nothing else was written."""
    lock = tmp_path / "run" / ".lock"
    flock, folder, ended = workdir.fcntl.flock, workdir.make_folder, []

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
    monkeypatch.setattr(workdir.fcntl, "flock", locked)
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
