"""Commands write the report by themselves, and do not fail by it."""

import contextlib
import errno
import io
import types

import pytest
import tiny
import workdirs

from fedjax_med.cli import main as cli
from fedjax_med.cli.commands import evaluate
from fedjax_med.cli.reporting import reported
from fedjax_med.report import inputs, page


class Closed(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_report_is_written_after_the_block(tmp_path, capsys):
    with reported(tmp_path):
        workdirs.write_run(tmp_path)
    assert capsys.readouterr().out == f"Written: {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text() == page.render(inputs.read(tmp_path))


def test_without_results_there_is_none(tmp_path, capsys):
    workdirs.write_experiment(tmp_path)
    with reported(tmp_path):
        pass
    assert not (tmp_path / "report.html").exists()
    assert capsys.readouterr() == ("", "")


def test_a_report_that_cannot_be_written_is_no_failure(tmp_path, capsys):
    workdirs.write_run(tmp_path)
    (tmp_path / "audit.json").write_text("[]")
    with reported(tmp_path):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert "no report was written" in line
    assert "audit.json" in line
    assert not (tmp_path / "report.html").exists()


def test_an_error_of_the_block_stays(tmp_path):
    workdirs.write_run(tmp_path)
    with pytest.raises(ValueError, match="broken"), reported(tmp_path):
        raise ValueError("broken")
    assert not (tmp_path / "report.html").exists()


def test_a_reader_that_has_left_does_not_take_the_report_along(tmp_path):
    workdirs.write_run(tmp_path)
    with contextlib.redirect_stdout(Closed()):
        with pytest.raises(BrokenPipeError), reported(tmp_path):
            print("the table")
        assert (tmp_path / "report.html").exists()
        (tmp_path / "report.html").unlink()
        with pytest.raises(BrokenPipeError), reported(tmp_path):
            pass
    assert (tmp_path / "report.html").exists()


def test_evaluate_reports_every_run(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        workdirs.write_run(folder)
    monkeypatch.setattr(
        evaluate, "read_run", lambda folder, _: types.SimpleNamespace(workdir=folder)
    )
    monkeypatch.setattr(evaluate, "check_same_test_set", lambda *_: None)
    monkeypatch.setattr(
        evaluate,
        "evaluate_run",
        lambda folder, **_: inputs.read(folder and tmp_path / "a").evaluation,
    )
    assert cli.main(["evaluate", f"--workdir={folders[0]},{folders[1]}"]) == 0
    assert all((folder / "report.html").exists() for folder in folders)


@pytest.mark.slow
def test_a_trained_run_has_a_report(tmp_path, capsys):
    options = ["--config.rounds=1", "--config.client.epochs=1", "--config.model.name=linear"]
    arguments = [f"--config={tiny.__file__}", *options, f"--workdir={tmp_path / 'run'}"]
    assert cli.main(["train", *arguments]) == 0
    file = tmp_path / "run" / "report.html"
    assert not file.exists()
    assert cli.main(["train", "--evaluate", *arguments]) == 0
    first = file.read_bytes()
    assert f"Written: {file}" in capsys.readouterr().out
    assert b"fedjax-med train --evaluate" in first
    file.unlink()
    assert cli.main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
    assert file.read_bytes() == first
    assert cli.main(["report", f"--workdir={tmp_path / 'run'}"]) == 0
    assert file.read_bytes() == first
