import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedjax_med.cli import main as cli
from fedjax_med.run import output
from fedjax_med.run.signals import CLOSED_OUTPUT


@pytest.fixture(params=["pipe", "full disk"])
def broken(request):
    """A stream that cannot be written: its reader is gone, or the disk is full."""
    if request.param == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(writing, "w") as stream:
        yield stream


def test_an_output_that_cannot_be_written_is_a_request_to_stop(broken, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", broken)
    received = []
    with output.lasting(received):
        print("round 1", flush=True)
        print("round 2", flush=True)
        sys.stdout.flush()
    print("Stopped after round 1", flush=True)  # now goes nowhere
    assert received == [CLOSED_OUTPUT]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "standard output cannot be written" in err


def test_errors_that_nobody_reads_stop_nothing(broken, monkeypatch):
    monkeypatch.setattr(sys, "stderr", broken)
    received = []
    with output.lasting(received):
        print("a warning", file=sys.stderr, flush=True)
    assert not received


def test_what_else_fails_while_printing_is_raised():
    with (
        Path(os.devnull).open("w", encoding="ascii") as ascii_only,
        pytest.raises(UnicodeEncodeError),
    ):
        output._Lasting(ascii_only, print).write("é")


def test_a_command_whose_output_nobody_reads_ends_quietly(broken, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", broken)
    monkeypatch.setattr(cli, "_run", lambda arguments: print("a table", flush=True))
    assert cli.main([]) == 1
    full = "fedjax-med: standard output cannot be written (No space left on device).\n"
    assert capsys.readouterr().err in ("", full)


def test_errors_of_other_files_are_not_taken_for_those_of_the_output(monkeypatch, capsys):
    def fail(arguments):
        raise OSError(5, "Input/output error", "image.png")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main([]) == 2
    assert capsys.readouterr().err == "fedjax-med: image.png: Input/output error.\n"


# Prints a line into a file or a pipe, and ends without flushing anything; then with all three
# standard streams closed.
LINES = """
import os, sys
from fedjax_med.run import output
output.open_standard()
output.by_lines(sys.stdout)
print("a line")
opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
print(opened > 2, file=os.fdopen(opened, "w"), flush=True)
os._exit(0)
"""


def test_output_is_flushed_by_lines_and_closed_streams_take_no_file_s_place(tmp_path):
    call = [sys.executable, "-c", LINES, str(tmp_path / "file")]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout == "a line\n"
    shell = 'exec "$@" <&- >&- 2>&-'
    subprocess.run(["bash", "-c", shell, "bash", *call], check=True)
    assert (tmp_path / "file").read_text() == "True\n"
