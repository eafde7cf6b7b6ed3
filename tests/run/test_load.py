"""What a saved run says is looked for, checked and imported."""

import dataclasses
import json
import sys

import pytest

import fedjax_med as fm
from fedjax_med.cli import main as cli
from fedjax_med.core.client_map import ClientMap
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, load_data, resolve
from fedjax_med.experiment.config import Experiment
from fedjax_med.run import provenance
from fedjax_med.run.load import load_run, read_run
from fedjax_med.run.workdir import CACHE_DIR, REPORTED


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        ({"cache_dir": "/kept"}, "", "/kept"),
        ({"cache_dir": "/kept"}, "/given", "/given"),
        ({}, "", CACHE_DIR),  # a run of a version that did not save it
        ({}, "/given", "/given"),
    ],
)
def test_prepared_data_is_where_it_was_or_where_it_is_said_to_be(
    saved, given, expected, tmp_path, monkeypatch
):
    experiment = config.to_dict(resolve.complete(Experiment()))
    content = {"experiment": experiment, "data_dir": "/images", "data": "x", **saved}
    (tmp_path / "experiment.json").write_text(json.dumps(content))

    def asked(experiment, *places):
        raise UserError(f"asked for {places}")

    monkeypatch.setattr(load_data, "load", asked)
    with pytest.raises(UserError) as said:
        load_run(read_run(tmp_path), cache_dir=given)
    assert str(said.value) == f"asked for {('/images', expected)}"


def save(workdir, experiment, **others):
    """Write the experiment.json of a run."""
    content = {"experiment": config.to_dict(experiment), "data_dir": "", "data": "x", **others}
    (workdir / "experiment.json").write_text(json.dumps(content))


CHANGES = {
    "tta_views": {"tta_views": 4},
    "calibrate": {"calibrate": True},
    "the operating points": {"operating": config.Operating("a", 0.8, 0.1)},
    "the checkpoint": {"checkpoint": config.Checkpoint(tested="last")},
    "the name": {"name": "another"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_that_no_checkpoint_has_is_refused(tmp_path, name):
    written = resolve.complete(Experiment())
    reported = {REPORTED: provenance.reported_digest(written)}
    save(tmp_path, written, **reported)
    assert read_run(tmp_path).resolved.asked.tta_views == 1
    changed = dataclasses.replace(written, **CHANGES[name])
    save(tmp_path, changed, **reported)
    with pytest.raises(UserError, match=r"experiment\.json is not what .* wrote") as said:
        read_run(tmp_path)
    assert "\n" not in str(said.value)
    save(tmp_path, changed)  # by an earlier version
    read_run(tmp_path)


def test_operating_points_cannot_be_taken_out_of_what_was_written(tmp_path):
    written = resolve.complete(Experiment(operating=config.Operating("a")))
    reported = {REPORTED: provenance.reported_digest(written)}
    save(tmp_path, written, **reported)
    assert read_run(tmp_path).resolved.asked.operating.classes == "a"
    save(tmp_path, dataclasses.replace(written, operating=config.Operating()), **reported)
    with pytest.raises(UserError, match="operating, checkpoint"):
        read_run(tmp_path)


def test_a_run_of_an_earlier_version_has_no_operating_points_and_the_same_digest(tmp_path):
    values = config.to_dict(resolve.complete(Experiment()))
    del values["operating"]
    # By the version before: a digest of the name, tta_views, calibrate and checkpoint.tested.
    content = {"experiment": values, "data_dir": "", "data": "x", REPORTED: "85281bcda234bfbb"}
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    assert read_run(tmp_path).resolved.asked.operating == config.Operating()


def named(where, name):
    """An experiment that names a component from elsewhere."""
    spec = config.Spec(name)
    if where == "client.optimizer":
        return Experiment(client=config.Client(optimizer=spec))
    return Experiment(**{where: [spec] if where in ("transforms", "attacks") else spec})


WHERE = ("algorithm", "model", "dataset", "partition", "server_optimizer", "transforms")
THEIRS = "someone_s_module:build"


@pytest.fixture
def someone_s(tmp_path, monkeypatch):
    """A module in the current folder that says so when it is imported."""
    (tmp_path / "someone_s_module.py").write_text(
        "import pathlib\npathlib.Path('ran').touch()\ndef build(): return None\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/nowhere")  # so that what is appended to sys.path goes again
    yield tmp_path
    sys.modules.pop("someone_s_module", None)


@pytest.mark.parametrize("where", [*WHERE, "attacks", "client.optimizer"])
def test_a_workdir_imports_no_code_that_nobody_asked_for(someone_s, where):
    save(someone_s, named(where, THEIRS))
    for allowed in ((), ["another_module:build"]):
        with pytest.raises(UserError, match=f"--allow_components={THEIRS}") as said:
            read_run(someone_s, allowed)
        assert "\n" not in str(said.value)
    assert not (someone_s / "ran").exists()
    read_run(someone_s, [THEIRS])
    assert (someone_s / "ran").exists()


@pytest.mark.parametrize("command", ["evaluate", "contribution"])
def test_the_commands_ask_for_the_components_of_a_run(someone_s, monkeypatch, capsys, command):
    def asked(*_):
        raise UserError("images were asked for")

    monkeypatch.setattr(load_data, "load", asked)
    save(someone_s, dataclasses.replace(named("transforms", THEIRS), keep_updates=True))
    given = [command, f"--workdir={someone_s}"]
    assert cli.main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"give --allow_components={THEIRS}" in line
    assert not (someone_s / "ran").exists()
    assert cli.main([*given, f"--allow_components={THEIRS}"]) == 2
    assert "images were asked for" in capsys.readouterr().err


def test_a_program_names_the_components_that_a_run_may_import(someone_s, monkeypatch):
    def asked(*_):
        raise UserError("images were asked for")

    monkeypatch.setattr(load_data, "load", asked)
    save(someone_s, named("algorithm", THEIRS))
    with pytest.raises(fm.UserError, match="allow_components="):
        fm.evaluate_run(someone_s)
    assert not (someone_s / "ran").exists()
    with pytest.raises(fm.UserError, match="images were asked for"):
        fm.evaluate_run(someone_s, allow_components=[THEIRS])


def test_training_in_someone_s_workdir_imports_nothing_that_the_run_does_not_name(someone_s):
    wanted = resolve.complete(Experiment())
    given = provenance.identity(config.to_dict(wanted), "x", ClientMap(sequential=False))
    saved = {"experiment": config.to_dict(named("algorithm", THEIRS)), "data": "x"}
    with pytest.raises(UserError, match=f"algorithm.name: the checkpoint has '{THEIRS}'"):
        provenance.refuse_other(someone_s, saved, given)
    assert not (someone_s / "ran").exists()
