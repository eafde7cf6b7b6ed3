"""Files of earlier versions are read under today's names, and old flags say the new name."""

import dataclasses
import json
from pathlib import Path

import pytest
import tiny

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, renamed, resolve
from fedjax_med.experiment.config import Client, Experiment, Participation, Spec
from fedjax_med.run.provenance import differences

TINY = Path(tiny.__file__)
NOW = Experiment(
    aggregator=Spec("krum", {"hostile": 1}),
    participation=Participation(0.5, 0.1, 0.2, "skip", 9.0),
    setting="centralized",
    local_client=2,
    ema_decay=0.5,
    tta_views=8,
    image_storage="disk",
    algorithm=Spec("fed_nova"),
    client=Client(optimizer=Spec("sgd", {"learning_rate": 0.1, "momentum": 0.9})),
)


def saved_before():
    """`NOW` as the version before saved it."""
    old = config.to_dict(NOW)
    for was, name in renamed.of_group("").items():
        old[was] = old.pop(name)
    old["turnout"] = {
        was: old["turnout"][name] for was, name in renamed.of_group("participation").items()
    }
    old["setting"] = "pooled"
    old["algorithm"] = {"name": "fed_nova", "options": {"momentum": 0.9}}
    return old


def test_every_old_name_is_in_the_saved_experiment():
    old = saved_before()
    assert old["turnout"]["garbage"] == 0.2
    assert old["reducer"]["name"] == "krum"
    assert {"hospital", "average", "views", "images"} <= old.keys()
    assert not {"participation", "aggregator", "local_client", "ema_decay"} & old.keys()


def test_an_experiment_that_an_earlier_version_saved_reads_the_same():
    assert config.from_dict(saved_before()) == NOW
    assert config.from_dict(config.to_dict(NOW)) == NOW


def test_a_field_of_any_group_may_be_renamed_and_renamed_again(monkeypatch):
    before = saved_before()
    monkeypatch.setitem(renamed.RENAMED, "client.passes", "client.sweeps")
    monkeypatch.setitem(renamed.RENAMED, "client.sweeps", "client.epochs")
    monkeypatch.setitem(renamed.RENAMED, "participation.on_nan", "participation.on_invalid")
    monkeypatch.setitem(renamed.RENAMED, "turnout.bad", "participation.on_nan")
    for name in ("passes", "sweeps"):
        assert renamed.new_name(f"client.{name}") == "client.epochs"
        old = config.to_dict(NOW)
        old["client"][name] = old["client"].pop("epochs") + 3
        assert config.from_dict(old).client.epochs == NOW.client.epochs + 3
    assert renamed.new_name("turnout.bad") == "participation.on_invalid"
    assert config.from_dict(before) == NOW
    assert renamed.of_group("client") == {"passes": "epochs", "sweeps": "epochs"}


def test_an_old_name_is_replaced_like_a_new_one():
    changed = dataclasses.replace(NOW, average=0.9, reducer=Spec("median"))
    assert (changed.ema_decay, changed.aggregator) == (0.9, Spec("median"))
    assert dataclasses.replace(NOW.participation, late=0.3).straggler_rate == 0.3


def test_a_field_under_both_names_is_refused():
    with pytest.raises(UserError, match="'ema_decay' twice"):
        config.from_dict(config.to_dict(NOW) | {"average": 0.1})
    with pytest.raises(UserError, match="'participation"):
        config.from_dict(config.to_dict(NOW) | {"turnout": {"rate": 0.1}})


@pytest.mark.parametrize("options", [None, [], "x"])
def test_a_damaged_experiment_is_refused_in_one_line(options):
    values = config.to_dict(NOW) | {"algorithm": {"name": "fed_nova", "options": options}}
    with pytest.raises(UserError):
        config.from_dict(values)


def test_momentum_that_nothing_normalises_any_more_is_not_dropped():
    values = config.to_dict(NOW)
    values["algorithm"]["options"] = {"momentum": 0.9}
    assert config.from_dict(values) == NOW
    with pytest.raises(UserError, match=r"momentum=0\.9 and the clients' optimizer adam"):
        config.from_dict(values | {"client": {"optimizer": {"name": "adam", "options": {}}}})


def test_what_of_a_renamed_group_is_unknown_is_refused():
    old = saved_before()
    old["turnout"]["mood"] = 1
    with pytest.raises(UserError, match="'mood'"):
        config.from_dict(old)


def test_a_checkpoint_of_an_earlier_version_is_of_the_same_run():
    complete = config.to_dict(resolve.complete(NOW))
    given = {"experiment": complete, "data": "d", "computed by": {}}
    before = given | {"experiment": saved_before()}
    assert differences(before, given) == []
    other = config.to_dict(resolve.complete(dataclasses.replace(NOW, ema_decay=0.9)))
    assert differences(before, given | {"experiment": other}) == [
        "ema_decay: the checkpoint has 0.5, this run 0.9"
    ]


def test_a_field_of_a_later_version_is_refused():
    with pytest.raises(UserError, match="'wormholes' that this version does not know"):
        config.from_dict(config.to_dict(NOW) | {"wormholes": 3})
    nested = config.to_dict(NOW)
    nested["client"]["naps"] = 1
    with pytest.raises(UserError, match="'naps'"):
        config.from_dict(nested)


OLD_FILE = """
from fedjax_med import config
from fedjax_med.config import Experiment, Spec, Turnout

def get_config():
    experiment = Experiment(reducer=Spec("krum", {"hostile": 1}), average=0.5, setting="pooled")
    experiment.turnout = Turnout(rate=0.5, late=0.1)
    experiment.turnout.garbage = 0.2
    experiment.turnout.bad = "skip"
    experiment.turnout.largest = 9.0
    experiment.hospital, experiment.views, experiment.images = 2, 8, "disk"
    experiment.algorithm = config.Spec("fed_nova", {"momentum": 0.9})
    experiment.client.optimizer = Spec("sgd", {"learning_rate": 0.1, "momentum": 0.9})
    assert (experiment.average, experiment.turnout.late) == (0.5, 0.1)
    return experiment
"""


def test_a_config_file_of_an_earlier_version_reads_the_same(tmp_path):
    file = tmp_path / "old.py"
    file.write_text(OLD_FILE)
    assert config.read(str(file)) == dataclasses.replace(NOW, name="old")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("turnout.rate=0.5", "--config.participation.participation_rate"),
        ("turnout.late=0.5", "--config.participation.straggler_rate"),
        ("turnout.garbage=0.5", "--config.participation.corruption_rate"),
        ("turnout.bad=skip", "--config.participation.on_invalid"),
        ("turnout.largest=1", "--config.participation.max_update_norm"),
        ("reducer.name=krum", "--config.aggregator.name"),
        ("reducer.options.q=1", "--config.aggregator.options.q"),
        ("hospital=1", "--config.local_client"),
        ("average=0.5", "--config.ema_decay"),
        ("views=8", "--config.tta_views"),
        ("images=disk", "--config.image_storage"),
        ("setting=pooled", "--config.setting=centralized"),
        ("aggregator.name=dp_mean", "--config.privacy.unit=client"),
    ],
)
def test_an_old_flag_is_refused_in_one_line_with_its_new_name(old, new, tmp_path, capsys):
    command = ["train", f"--config={TINY}", f"--workdir={tmp_path / 'run'}", f"--config.{old}"]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert f"--config.{old.partition('=')[0]}" in said
    assert new in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_option_that_was_removed_says_why(tmp_path, capsys):
    momentum = "--config.algorithm.options.momentum=0.9"
    command = ["train", f"--config={TINY}", "--config.algorithm.name=fed_nova", momentum]
    assert cli.main([*command, f"--workdir={tmp_path}"]) == 2
    assert "is taken from the clients' optimizer. Leave it out." in capsys.readouterr().err


@pytest.mark.slow
def test_a_workdir_of_an_earlier_version_is_evaluated_and_goes_on(tmp_path, capsys):
    quick = ["--config.model.name=linear", "--config.client.epochs=1"]
    quick += ["--config.client.schedule=constant", f"--workdir={tmp_path}"]
    assert cli.main(["train", f"--config={TINY}", "--config.rounds=1", *quick]) == 0
    file = tmp_path / "experiment.json"
    saved = json.loads(file.read_text())
    values = saved["experiment"]
    for was, name in renamed.of_group("").items():
        values[was] = values.pop(name)
    values["turnout"] = {
        was: values["turnout"][name] for was, name in renamed.of_group("participation").items()
    }
    file.write_text(json.dumps(saved))
    assert cli.main(["evaluate", f"--workdir={tmp_path}"]) == 0
    assert cli.main(["train", f"--config={TINY}", "--config.rounds=2", *quick]) == 0
    assert "Going on after round 1." in capsys.readouterr().out
