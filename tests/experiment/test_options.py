"""Options of every shelf are checked by every command, before any data."""

import pytest

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, options, resolve
from fedjax_med.experiment.config import Experiment, Spec

FIELDS = {
    "aggregators": "aggregator",
    "algorithms": "algorithm",
    "attacks": "attacks",
    "cohorts": "cohort",
    "datasets": "dataset",
    "models": "model",
    "partitions": "partition",
    "transforms": "transforms",
}
ANY_NUMBER = {("ifca", "seed")}


def numbers():
    """Every option of our own components whose default is a number."""
    for shelf in FIELDS:
        for name in components._ours(shelf):
            for option, default in components.default_options(shelf, name).items():
                if type(default) in (int, float) and (name, option) not in ANY_NUMBER:
                    yield pytest.param(shelf, name, option, type(default), id=f"{name}.{option}")


@pytest.mark.parametrize(("shelf", "name", "option", "kind"), list(numbers()))
def test_every_number_has_a_range_that_is_checked_without_data(shelf, name, option, kind):
    spec = Spec(name, {option: kind(-(10**9))})
    given = [spec] if shelf in ("attacks", "transforms") else spec
    experiment = resolve.complete(Experiment(**{FIELDS[shelf]: given}))
    with pytest.raises(UserError, match=option):
        options.check(experiment)


WRONG = {
    "expected 0 < alpha <= 1e9, got -1.0": ("partition=dirichlet", "alpha=-1"),
    "expected 0 < k <= 1e9, got 0": ("partition=labels_per_client", "k=0"),
    "none.csv cannot be read": ("partition=by_column", "path=none.csv"),
    "share <= 1, got share=-1.0": ("transforms=top_k", "share=-1"),
    "1 <= size <= 3 clients, got 4": ("cohort=uniform", "size=4", "num_clients=3"),
    "1 <= size <= 1000000000 clients, got 0": ("cohort=uniform", "size=0"),
    "clients among 0 to 2, got (3,)": ("cohort=fixed", "clients=(3,)", "num_clients=3"),
    "client 3 is hostile": ("attacks=sign_flip", "clients=(3,)", "num_clients=3"),
    "keep >= 1, got keep=0": ("aggregator=krum", "keep=0"),
    "mu >= 0, got mu=-1.0": ("algorithm=fed_prox", "mu=-1"),
    "dropout in [0, 1), got 2.0": ("model=cnn", "dropout=2"),
    "expected --config.dataset.options.range=BLACK,WHITE": (
        "dataset=image_folder",
        "range=(5.0,1.0)",
    ),
    "expected --config.dataset.options.rename='OLD=NEW": ("dataset=isic9", "rename=x"),
    "dataset.options.test_size of at least 0": ("dataset=lesions", "test_size=-1"),
    "tau > 0, got tau=-1.0": ("server_optimizer=fed_adam", "tau=-1"),
}


@pytest.mark.parametrize("message", WRONG)
@pytest.mark.parametrize("command", ["audit", "partition", "train", "compare", "crossvalidate"])
def test_every_command_checks_every_option_before_it_does_anything(
    tmp_path, monkeypatch, capsys, command, message
):
    monkeypatch.chdir(tmp_path)
    named, option, *others = WRONG[message]
    field, _, name = named.partition("=")
    flags = [f"{named}", f"{field}[0].options.{option}"]
    if field not in ("transforms", "attacks"):
        flags = [f"{field}.name={name}", f"{field}.options.{option}"]
    flags += [*others, "setting=centralized"]  # which uses few of these
    assert cli.main([command, *(f"--config.{flag}" for flag in flags)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "data_dir" not in line
    assert not list(tmp_path.iterdir())


def test_what_a_builder_does_not_take_is_told_in_one_line(monkeypatch, tmp_path):
    (tmp_path / "fussy.py").write_text(
        "def build(learning_rate=0.1): raise ValueError('bad\\nrate')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    experiment = resolve.complete(Experiment(server_optimizer=Spec("fussy:build")))
    with pytest.raises(UserError, match=r"fussy:build with the options .*0.1.*: bad rate"):
        options.check(experiment)


def test_components_from_elsewhere_may_be_checked_too(monkeypatch, tmp_path):
    (tmp_path / "halves.py").write_text(
        "from fedjax_med.errors import UserError\n"
        "def build(split, groups, num_clients, seed, *, share=0.5): raise AssertionError\n"
        "def check_options(*, share=0.5):\n"
        "    if share > 1: raise UserError(f'share <= 1, got {share}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for share in (0.5, 1.5):
        spec = Spec("halves:build", {"share": share})
        experiment = resolve.complete(Experiment(partition=spec))
        if share > 1:
            with pytest.raises(UserError, match=r"share <= 1, got 1\.5"):
                options.check(experiment)
        else:
            options.check(experiment)
