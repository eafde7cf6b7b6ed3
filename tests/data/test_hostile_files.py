"""What stands where a file is expected is told in one line, never waited for, never endless."""

import json
import signal

import hostile
import numpy as np
import pytest

from fedjax_med.cli import main as cli
from fedjax_med.data.partitions import by_column
from fedjax_med.errors import UserError
from fedjax_med.evaluation import predictions, tables
from fedjax_med.experiment import config
from fedjax_med.models.pretrained import weights
from fedjax_med.run import message_log
from fedjax_med.run.workdir import read_workdir

READERS = {
    "predictions.csv": predictions.read,
    "evaluation.json": tables.read_evaluation,
    "experiment.json": lambda file: read_workdir(file.parent),
    "sites.csv": lambda file: by_column._read_sites(str(file), "site", "image"),
    "updates/round_000001.npz": lambda file: message_log.load(file.parent.parent, 1, np.zeros(3)),
    "weights.pth": lambda file: weights.read(str(file)),
    "weights.safetensors": lambda file: weights.read(str(file)),
    "mine.py": lambda file: config.read(str(file)),
}


@pytest.fixture(autouse=True)
def patience():
    """Ends what hangs."""

    def end(number, frame):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", hostile.KINDS)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_regular_file_of_bounded_size_is_told(tmp_path, name, kind):
    hostile.make(tmp_path / name, kind)
    with pytest.raises(UserError) as told:
        READERS[name](tmp_path / name)
    assert (tmp_path / name).stem in str(told.value)
    assert "\n" not in str(told.value)
    assert "hangs" not in str(told.value)


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_a_file_of_flags_is_no_other_thing(tmp_path, capsys, kind):
    hostile.make(tmp_path / "flags", kind)
    (tmp_path / "outer").write_text(f"--flagfile={tmp_path / 'flags'}\n")
    for given in (["--flagfile", str(tmp_path / "flags")], [f"--flagfile={tmp_path / 'outer'}"]):
        assert cli.main(["audit", *given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "flags cannot be read" in line


JSONS = {
    "empty": "",
    "cut": '{"experiment": {',
    "a list": "[]",
    "a number": "3",
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "deep in an object": '{"experiment": ' + "[" * 100_000,
    "long number": '{"a": ' + "9" * 5_000 + "}",
    "other encoding": "\xff\xfe{}",
    "other types": json.dumps({"experiment": 3, "data_dir": 3, "data": 3, "accuracy": "high"}),
    "other types inside": json.dumps(
        {"experiment": {}, "data_dir": "", "data": "", "privacy": 3, "client_names": 3}
    ),
}


@pytest.mark.parametrize("text", JSONS)
@pytest.mark.parametrize("name", ["evaluation.json", "experiment.json"])
def test_json_of_another_form_is_told_in_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(JSONS[text], "latin-1")
    with pytest.raises(UserError, match=rf"{name} cannot be read: ") as told:
        READERS[name](tmp_path / name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("saved", [{"rounds": "x"}, {"model": 3}, {"client": {"optimizer": 3}}])
def test_commands_tell_of_an_experiment_of_other_types_in_one_line(tmp_path, capsys, saved):
    text = json.dumps({"experiment": saved, "data_dir": "x", "data": "x"})
    (tmp_path / "experiment.json").write_text(text)
    for command in ("evaluate", "contribution"):
        assert cli.main([command, f"--workdir={tmp_path}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "the experiment that was saved" in line


def test_a_config_file_is_bounded_before_it_runs(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + "#" * 2**20)
    with pytest.raises(
        UserError, match=r"mine\.py cannot be read: 1.0 MB, expected at most 1.0 MB"
    ):
        config.read(str(file))
    assert not (tmp_path / "ran").exists()
