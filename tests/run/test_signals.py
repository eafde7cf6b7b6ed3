import os
import signal
import subprocess
import sys

import pytest

from fedjax_med.data.images import array_record, export
from fedjax_med.errors import UserError
from fedjax_med.files.unfinished import remove_unfinished, unfinished
from fedjax_med.run import signals
from fedjax_med.run.signals import stop_requests
from fedjax_med.run.workdir import exclusive

REQUESTS = [number for name in signals._REQUESTS if (number := getattr(signal, name, None))]


@pytest.fixture
def ended(monkeypatch):
    """The exit codes with which the process would have ended at once."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.fixture(autouse=True)
def not_ignored():
    """A shell starts commands in the background with some signals ignored."""
    ignored = [number for number in REQUESTS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *REQUESTS])
def test_every_signal_that_asks_for_an_end_requests_a_stop(number, capfd):
    before = signal.getsignal(number)
    with stop_requests() as received:
        assert not received
        signal.raise_signal(number)
        assert received == [number]
    assert signal.getsignal(number) == before
    assert capfd.readouterr().out.startswith("Stopping after this round")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_only_who_asks_by_hand_may_ask_twice(number, ended):
    """Terminals send SIGHUP more than once, and schedulers SIGTERM after SIGUSR1."""
    with stop_requests() as received:
        for request in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, number):
            signal.raise_signal(request)
        assert not ended
        signal.raise_signal(number)
    assert received[0] == signal.SIGHUP
    assert ended == [128 + number]


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as received:
            signal.raise_signal(signal.SIGHUP)
        assert not received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_recorded_where_nobody_reads_the_output_any_more():
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(1)
    os.dup2(writing, 1)
    try:
        with stop_requests() as received:
            signal.raise_signal(signal.SIGTERM)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writing)
    assert received == [signal.SIGTERM]


# The command's start, with all that is slow left out: it gets a signal in the midst of a file.
WRITING = """
import os, pathlib, sys, time, types

def main():
    from fedjax_med.files import replacing
    with replacing(pathlib.Path(sys.argv[1], "file")) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), int(sys.argv[2]))
        time.sleep(60)

for name in ("jax", "fedjax_med.cli", "fedjax_med.cli.main"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["fedjax_med.cli"].main = types.SimpleNamespace(main=main)

from fedjax_med.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *REQUESTS])
def test_outside_of_rounds_each_signal_ends_in_one_line_and_leaves_nothing_half_written(
    number, tmp_path
):
    call = [sys.executable, "-c", WRITING, str(tmp_path), str(int(number))]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    assert done.stderr == f"fedjax-med: interrupted{by}.\n"
    assert not list(tmp_path.iterdir())


def test_outside_of_rounds_what_nohup_ignores_stays_ignored(tmp_path):
    call = ["nohup", sys.executable, "-c", WRITING, str(tmp_path), str(int(signal.SIGHUP))]
    call[3] = WRITING.replace("time.sleep(60)", "")
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "half"


def test_folders_that_are_being_written_go_with_the_process(tmp_path, monkeypatch):
    def write(folder, *_):
        folder.mkdir()
        remove_unfinished()
        assert not list(tmp_path.iterdir())
        raise UserError("ended")

    monkeypatch.setattr(export, "_write_whole", write)
    with pytest.raises(UserError, match="ended"):
        export.write(tmp_path / "out", {}, None)

    def make(folder):
        (folder / "half").touch()
        remove_unfinished()
        assert not folder.exists()
        raise UserError("ended")

    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="ended"):
        array_record.write(make, tmp_path / "images" / "name" / "1")
    with exclusive(tmp_path / "run"):
        assert (tmp_path / "run").exists()
        remove_unfinished()
        assert not (tmp_path / "run").exists()


def test_another_process_s_files_are_not_removed(monkeypatch):
    """As those of the parent of a forked process."""
    removed = []
    with unfinished(lambda: removed.append("inner")), unfinished(lambda: 1 / 0):
        parent = os.getpid()
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: parent + 1)
            remove_unfinished()
            assert not removed
        remove_unfinished()
    assert removed == ["inner"]
    remove_unfinished()
    assert removed == ["inner"]
