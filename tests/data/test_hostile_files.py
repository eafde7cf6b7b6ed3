"""What stands where a file is expected is told in one line, never waited for, never endless."""

import json
import signal
import types

import hostile
import numpy as np
import pytest

from fedjax_med.cli import main as cli
from fedjax_med.data.images import manifest
from fedjax_med.data.partitions import by_column
from fedjax_med.errors import UserError
from fedjax_med.evaluation import predictions, tables
from fedjax_med.experiment import config_file
from fedjax_med.models.pretrained import weights
from fedjax_med.run import message_log, metrics_file
from fedjax_med.run.workdir import read_workdir

DIVIDED = types.SimpleNamespace(train=types.SimpleNamespace(client=np.zeros(1, np.int32)))
READERS = {
    "manifest.json": lambda file: manifest.check(file.parent, DIVIDED),
    "predictions.csv": predictions.read,
    "evaluation.json": tables.read_evaluation,
    "experiment.json": lambda file: read_workdir(file.parent),
    "sites.csv": lambda file: by_column.count_clients([], path=str(file)),
    "updates/round_000001.npz": lambda file: message_log.load(file.parent.parent, 1, np.zeros(3)),
    "weights.pth": lambda file: weights.read(str(file)),
    "weights.safetensors": lambda file: weights.read(str(file)),
    "mine.py": lambda file: config_file.read(str(file)),
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
    "less deep, in any field": json.dumps(
        {"experiment": {"name": json.loads("[" * 900 + "]" * 900)}, "data_dir": "", "data": ""}
        | {"format": json.loads("[" * 900 + "]" * 900)}
    ),
    "long number": '{"a": ' + "9" * 5_000 + "}",
    "other encoding": "\xff\xfe{}",
    "other types": json.dumps({"experiment": 3, "data_dir": 3, "data": 3, "accuracy": "high"}),
    "other types inside": json.dumps(
        {"experiment": {}, "data_dir": "", "data": "", "privacy": 3, "client_names": 3}
    ),
}


@pytest.mark.parametrize("text", JSONS)
@pytest.mark.parametrize("name", ["evaluation.json", "experiment.json", "manifest.json"])
def test_json_of_another_form_is_told_in_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(JSONS[text], "latin-1")
    with pytest.raises(UserError, match=rf"{name} cannot be read: ") as told:
        READERS[name](tmp_path / name)
    assert "\n" not in str(told.value)


ENTRIES = [3, "x", None, {"a": 1}, [3], ["x"], [None], [[]], [{}], [{"path": "x"}]]
ENTRIES += [[{"path": ["x"], "sha256": "y"}], [{"path": "x", "sha256": {}}]]


@pytest.mark.parametrize("entries", ENTRIES, ids=str)
def test_a_manifest_of_other_entries_is_told_in_one_line(tmp_path, entries):
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "files": entries}))
    with pytest.raises(UserError, match=r"manifest\.json cannot be read: expected files, each"):
        READERS["manifest.json"](tmp_path / "manifest.json")


HAND_EDITED = [
    {"rounds": "x"},
    {"model": 3},
    {"client": {"optimizer": 3}},
]


@pytest.mark.parametrize("saved", HAND_EDITED)
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
        config_file.read(str(file))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", ["fast", {}, [0.1], True])
def test_a_learning_rate_that_is_no_number_is_told_of_every_command(tmp_path, capsys, value):
    optimizer = {"name": "sgd", "options": {"learning_rate": value}}
    text = json.dumps({"experiment": {"server_optimizer": optimizer}, "data_dir": "x", "data": "x"})
    (tmp_path / "experiment.json").write_text(text)
    assert cli.main(["evaluate", f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected --config.server_optimizer.options.learning_rate to be a number" in line


def test_a_record_nested_deep_is_no_record(tmp_path):
    good = {"round": 1, "clients": {"steps": [1]}, "seconds": 1.0}
    deep = good | {"round": 2, "validation": json.loads("[" * 900 + "]" * 900)}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(deep)}\n")
    assert metrics_file.read_records(tmp_path / "metrics.jsonl", 2) == [good]
