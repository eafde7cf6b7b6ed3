"""Config files and their variants: ``FILE.py:VARIANT``."""

import dataclasses
import json
import shutil

import pytest
import shipped

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, config_file, renamed, variants
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.variants import Variant

IMPORTS = "from fedjax_med.experiment.config import Experiment, Spec, read\n"
VARIED = (
    f"{IMPORTS}"
    "def get_config(variant='none'):\n"
    "    return Experiment(rounds={'none': 1, 'long': 9}[variant])\n"
)
PLAIN = f"{IMPORTS}def get_config():\n    return Experiment(rounds=3)\n"


@pytest.fixture
def varied(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(VARIED)
    return file


def refused(path):
    """The line that refuses `path`."""
    with pytest.raises(UserError) as caught:
        config_file.read(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_variant_is_the_argument_of_get_config_and_a_part_of_the_default_name(varied):
    plain, long = config_file.read(str(varied)), config_file.read(f"{varied}:long")
    assert (plain.rounds, plain.name) == (1, "mine")
    assert (long.rounds, long.name) == (9, "mine_long")


def test_path_that_exists_is_not_divided_at_its_colon(tmp_path, varied):
    (tmp_path / "mine.py:long").mkdir()
    (tmp_path / "mine.py:long" / "other.py").write_text(PLAIN)
    assert config_file.read(f"{varied}:long/other.py").rounds == 3
    (tmp_path / "at:noon.py").write_text(VARIED)
    assert config_file.read(str(tmp_path / "at:noon.py")).rounds == 1
    assert config_file.read(str(tmp_path / "at:noon.py:long")).rounds == 9
    assert "is a folder" in refused(f"{varied}:long")


@pytest.mark.parametrize(
    "signature", ["", "*, variant='long'", "**options"], ids=["none", "keyword", "keywords"]
)
def test_variant_of_a_file_that_takes_none_is_refused(tmp_path, signature):
    file = tmp_path / "mine.py"
    file.write_text(PLAIN.replace("get_config()", f"get_config({signature})"))
    told = refused(f"{file}:long")
    assert f"--config={file}:long: expected a config file with variants" in told
    assert told.endswith(f"give --config={file}.")
    assert config_file.read(str(file)).rounds == 3


def test_empty_variant_is_refused(varied):
    told = refused(f"{varied}:")
    assert f"--config={varied}:: expected a variant after the colon, got none" in told
    assert "leave the colon out" in told


def test_variant_of_a_file_that_does_not_exist_names_the_nearest_file(varied):
    assert f"Did you mean {str(varied)!r}" in refused(varied.with_name("mien.py:long"))


def test_variant_that_does_not_run_is_told(varied):
    assert refused(f"{varied}:short").endswith("does not run: KeyError: 'short'")


@pytest.mark.parametrize("old", renamed.CONFIG_FILES)
def test_config_file_of_an_earlier_version_names_the_variant_that_it_is(old, monkeypatch, capsys):
    monkeypatch.chdir(shipped.ROOT)
    new = f"configs/{renamed.CONFIG_FILES[old]}"
    assert cli.main(["train", f"--config=configs/{old}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"fedjax-med: --config=configs/{old} is called --config={new} now."
    assert config_file.read(new).name == old.removesuffix(".py")


def test_file_of_an_old_name_is_looked_for_beside_its_new_file_alone(tmp_path):
    assert "There is no" in refused(tmp_path / "fed_adam.py")
    shutil.copy(shipped.ROOT / "configs" / "lesions.py", tmp_path)
    told = refused(tmp_path / "fed_adam.py")
    assert f"--config={tmp_path / 'lesions.py:fed_adam'} now." in told
    (tmp_path / "fed_adam.py").write_text(PLAIN)
    assert config_file.read(str(tmp_path / "fed_adam.py")).name == "fed_adam"


@pytest.mark.parametrize("module", ["fedjax_med.experiment.config", "fedjax_med.config"])
def test_config_file_may_read_the_one_beside_it_as_before(tmp_path, module):
    shutil.copy(shipped.ROOT / "configs" / "lesions.py", tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(
        f"from pathlib import Path\nfrom {module} import Experiment, Spec, read\n"
        "def get_config():\n"
        "    experiment = read(str(Path(__file__).with_name('lesions.py')))\n"
        "    experiment.name = ''\n"
        "    experiment.algorithm = Spec('fed_prox')\n"
        "    return experiment\n"
    )
    base = config_file.read(str(tmp_path / "lesions.py"))
    expected = dataclasses.replace(base, name="mine", algorithm=Spec("fed_prox"))
    assert config_file.read(str(file)) == config.read(str(file)) == expected


def test_table_of_variants_is_that_of_the_file(tmp_path, varied):
    assert config_file.variants(str(varied)) == {}
    lesions = config_file.variants(str(shipped.ROOT / "configs" / "lesions.py"))
    assert lesions["backdoor"].expected == {"balanced_accuracy": 0.654, "backdoor_success": 0.129}
    with pytest.raises(UserError, match="There is no"):
        config_file.variants(str(tmp_path / "yours.py"))


def test_chosen_variant_changes_its_fields_alone_and_shares_nothing():
    base = Experiment(rounds=4)
    rate = Spec("sgd", {"learning_rate": 0.5})
    table = {"fast": Variant("faster", {"rounds": 2, "client.optimizer": rate}, 0.5)}
    chosen = variants.choose(base, table, "fast")
    assert config.to_dict(chosen) == config.to_dict(base) | {
        "rounds": 2,
        "client": config.to_dict(base)["client"] | {"optimizer": dataclasses.asdict(rate)},
    }
    chosen.client.optimizer.options["learning_rate"] = 9.0
    chosen.augment.flip = not base.augment.flip
    assert rate.options == {"learning_rate": 0.5}
    assert base == variants.choose(base, table, "") == Experiment(rounds=4)


def test_unknown_variant_names_the_nearest():
    told = refused(shipped.ROOT / "configs" / "lesions.py:fed_adm")
    assert "There is no 'fed_adm' in the variants of the config file" in told
    assert "Did you mean 'fed_adam'?" in told


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("round", "There is no 'round' in the experiment. Did you mean 'rounds'?"),
        ("client.epoch", "There is no 'epoch' in client. Did you mean 'epochs'?"),
        ("clients.epochs", "There is no 'clients' in the experiment. Did you mean 'client'?"),
        ("rounds.more", "rounds of the experiment has no fields"),
        ("client.optimizer.options.b1", "options of the experiment has no fields"),
    ],
)
def test_change_of_a_field_that_does_not_exist_is_refused(field, hint):
    with pytest.raises(UserError) as caught:
        variants.changed(Experiment(), {field: 3})
    assert hint in str(caught.value)


def test_default_workdir_of_a_variant_is_called_like_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    file.write_text(
        "from fedjax_med.experiment.config import Checkpoint, Experiment, Spec\n"
        "def get_config(variant=''):\n"
        "    return Experiment(name=variant, rounds=1, num_clients=2, image_size=16,\n"
        "        dataset=Spec('lesions', {'train_size': 45, 'test_size': 9}),\n"
        "        model=Spec('linear'), checkpoint=Checkpoint(every=1))\n"
    )
    assert cli.main(["train", f"--config={file}:small", f"--cache_dir={tmp_path / 'cache'}"]) == 0
    saved = json.loads((tmp_path / "runs" / "small" / "experiment.json").read_text())
    assert saved["experiment"]["name"] == "small"


def test_a_file_where_there_are_none_is_refused_with_where_to_find_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as after installing the wheel
    (tmp_path / "empty").mkdir()
    for path in ("configs/lesions.py:fed_adam", "empty/lesions.py"):
        with pytest.raises(UserError, match=r"in configs/ of its source.*dataset\.name=lesions"):
            config_file.read(path)
