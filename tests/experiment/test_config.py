import dataclasses
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import shipped

from fedjax_med.cli import help_text, overrides
from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, config, config_file, resolve
from fedjax_med.experiment.config import Experiment, Spec

ROOT = Path(__file__).parent.parent.parent


_EXPERIMENT = (
    "from fedjax_med.experiment.config import *\ndef get_config():\n    return Experiment({})\n"
)


def parsed(*arguments):
    return cli.parse("train", list(arguments))[1].config


@pytest.mark.parametrize("file", shipped.FILES, ids=lambda file: file.stem)
def test_every_config_is_an_experiment_that_says_how_to_run_it(file):
    experiment = resolve.complete(config_file.read(str(file)))
    assert experiment.name == file.stem
    text = file.read_text()
    for word in ("Run:", "Expect:", "Change:", f"--config=configs/{file.name}"):
        assert word in text, f"{file.name} does not say {word}"
    if config_file.variants(str(file)):
        assert f"--config=configs/{file.name}:" in text, f"{file.name} does not run a variant"
    assert "@@" not in text


@pytest.mark.parametrize("path", shipped.VARIANTS, ids=shipped.short)
def test_every_variant_is_an_experiment_of_its_own(path):
    experiment = config_file.read(path)
    variant = path.rpartition(":")[2]
    assert experiment.name == {"fast": "isic9_fast"}.get(variant, variant)
    base = config.to_dict(config_file.read(path.removesuffix(f":{variant}")))
    assert config.to_dict(experiment) != base | {"name": experiment.name}
    resolve.settle(resolve.complete(experiment))
    if "/lesions.py:" in path:
        assert re.search(r"(19|20)\d\d", shipped.VARIANTS[path].about), f"{path} names no paper"


def test_no_two_experiments_have_one_name():
    names = [config_file.read(path).name for path in shipped.EXPERIMENTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", shipped.EXPERIMENTS, ids=shipped.short)
def test_experiment_survives_its_form_in_json(path):
    experiment = resolve.complete(config_file.read(path))
    again = config.from_dict(config.to_dict(experiment))
    assert config.to_dict(again) == config.to_dict(experiment)
    assert type(again.client.optimizer) is Spec


def test_overrides_are_typed_and_nested():
    experiment = parsed(
        "--config.rounds=7",
        "--config.client.optimizer.options.learning_rate=0.3",
        "--config.augment.flip=false",
        "--config.model.options.widths=(4, 8)",
    )
    assert experiment.rounds == 7
    assert experiment.client.optimizer.options["learning_rate"] == 0.3
    assert experiment.augment.flip is False
    assert experiment.model.options["widths"] == (4, 8)


def test_another_name_brings_its_own_options_and_keeps_those_it_shares():
    experiment = parsed(
        "--config.client.optimizer.name=adam", "--config.client.optimizer.options.b1=0.5"
    )
    optimizer = experiment.client.optimizer
    assert optimizer.name == "adam"
    assert (
        optimizer.options["learning_rate"] == Experiment().client.optimizer.options["learning_rate"]
    )
    assert optimizer.options["b1"] == 0.5
    assert optimizer.options["b2"] == 0.999
    assert "weight_decay" not in optimizer.options


def test_option_whose_default_is_none_can_be_given():
    experiment = parsed(
        "--config.client.optimizer.name=sgd",
        "--config.client.optimizer.options.momentum=0.9",
        "--config.server_optimizer.options.momentum=0.5",
    )
    assert experiment.client.optimizer.options["momentum"] == 0.9
    assert experiment.server_optimizer.options["momentum"] == 0.5
    with pytest.raises(UserError, match="expected a number"):
        parsed("--config.server_optimizer.options.momentum=much")
    with pytest.raises(UserError, match="expected a number"):
        parsed("--config.server_optimizer.options.momentum='x'")


def test_entries_of_a_list_can_be_overridden(tmp_path):
    file = tmp_path / "clipped.py"
    file.write_text(
        "from fedjax_med.experiment.config import Experiment, Spec\n"
        "def get_config():\n"
        "    return Experiment(transforms=[Spec('clip', {'norm': 3.0})])\n"
    )
    experiment = parsed(f"--config={file}", "--config.transforms[0].options.norm=0.5")
    assert experiment.transforms == [Spec("clip", {"norm": 0.5})]
    with pytest.raises(UserError, match="no such entry"):
        parsed(f"--config={file}", "--config.transforms[1].options.norm=0.5")


@pytest.mark.parametrize(
    "start", ["--config=configs/lesions.py:top_k", "--config.transforms=top_k"]
)
def test_entry_of_a_list_can_be_renamed(start, monkeypatch):
    monkeypatch.chdir(ROOT)
    renamed = "--config.transforms[0].name=quantize"
    assert parsed(start, renamed).transforms[0].options["bits"] == 8
    for order in (1, -1):
        given = [renamed, "--config.transforms[0].options.bits=4"][::order]
        quantize = Spec("quantize", {"bits": 4, "rotate": False, "sparse": False})
        assert parsed(start, *given).transforms == [quantize]
    random_k = parsed("--config=configs/lesions.py:top_k", "--config.transforms[0].name=random_k")
    assert (
        random_k.transforms[0].options
        == parsed("--config=configs/lesions.py:top_k").transforms[0].options
    )
    attack = parsed(
        "--config=configs/lesions.py:backdoor", "--config.attacks[0].name=sign_flip"
    ).attacks
    assert attack == [Spec("sign_flip", {"clients": (0,), "scale": 1.0})]


def test_lists_are_given_by_name():
    named = parsed("--config.transforms=clip", "--config.transforms[0].options.norm=0.5")
    assert named.transforms == [Spec("clip", {"norm": 0.5})]
    assert [spec.name for spec in parsed("--config.transforms=clip,clip").transforms] == [
        "clip"
    ] * 2
    assert parsed("--config.transforms=").transforms == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_optimizers_on_the_shelf_keep_only_arrays_that_a_checkpoint_can_hold():
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    assert len(components.names("optax")) > 20
    for name in components.names("optax"):
        defaults = components.default_options("optax", name)
        rate = (
            {"learning_rate": 0.1} if defaults["learning_rate"] is inspect.Parameter.empty else {}
        )
        optimizer = components.build("optax", Spec(name, rate))
        state = optimizer.init(params)
        _, after = optimizer.update(params, state, params)
        assert jax.tree.structure(state) == jax.tree.structure(after), name
        for leaf in jax.tree.leaves(state):
            assert not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key), name


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--config.rouds=3", "Did you mean 'rounds'"),
        ("--config.client.optimizer.options.weight_decai=3", "Did you mean 'weight_decay'"),
        (
            "--config.algorithm.name=fedavg",
            "Did you mean 'fed_avg'.*There are: apfl, cfl, ditto, fed_avg",
        ),
        ("--config.client.optimizer.name=adm", "Did you mean 'adam'"),
        ("--config.partition.name=equl", "Did you mean 'equal'"),
        ("--config.rounds=abc", "--config.rounds=abc: expected a whole number"),
        ("--config.augment.hue=x", "--config.augment.hue=x: expected a number"),
        ("--config.augment.flip=maybe", "flip=maybe: expected true or false"),
        ("--config.batch_size=3", r"Did you mean --config.client.batch_size\?"),
        ("--config.client.beta=3", "There are: backbone_rate, batch_size, epochs"),
        ("--config.rounds", "expected a value"),
        ("--config.client=3", "group of fields"),
        ("--config.rounds.more=3", "single value"),
        ("--config=configs/isic.py", "Did you mean 'configs/isic9.py'"),
        ("--config=configs/lesions.py:top_j", "Did you mean 'top_k'"),
        ("--wrkdir=x", "Did you mean: workdir"),
        ("--rounds=3", r"'rounds'\. Did you mean --config.rounds\?"),
        ("--config.transforms=clp", "Did you mean 'clip'"),
        (
            "--config=configs/lesions.py:top_k --config.transforms[0].name=clp",
            "Did you mean 'clip'",
        ),
        (
            "--config=configs/lesions.py:top_k --config.transforms[3].options.share=1",
            "no such entry",
        ),
        (
            "--config.attacks=sign_flip --config.attacks[0].options.clients=a",
            r"attacks\[0\].options.clients to be of type tuple such as \(0,\), got",
        ),
        ("extra", "only flags"),
    ],
)
def test_typo_names_the_nearest_right_one(argument, hint, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=hint) as caught:
        parsed(*argument.split(" "))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("def get_config():\n    return 3\n", "expected get_config"),
        ("x = 1\n", "does not run"),
        ("raise SystemExit(3)\n", "does not run"),
        (_EXPERIMENT.format("rounds='3'"), "expected rounds to be of type int, got '3'"),
        (_EXPERIMENT.format("model='cnn'"), "expected model to be of type Spec"),
        (_EXPERIMENT.format("client=None"), "expected client to be of type Client"),
        (_EXPERIMENT.format("augment=Augment(hue='x')"), "expected augment.hue to be of type"),
        ("def get_config(:\n", "does not run"),
        ("raise ValueError('a\\nb')\n", "does not run: ValueError: a b"),
        ("x = '\0'\n", "does not run"),
        (_EXPERIMENT.format("transforms=['clip']"), r"expected transforms\[0\] to be of type Spec"),
        (_EXPERIMENT.format("model=Spec(3)"), "expected model.name to be of type str"),
        (_EXPERIMENT.format("model=Spec('cnn', 3)"), "expected model.options to be of type dict"),
    ],
)
def test_broken_config_file_is_told_in_one_line(tmp_path, text, hint):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(UserError, match=hint) as caught:
        config_file.read(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"rounds": "3"}, "expected rounds to be of type int"),
        ({"client": 3}, "expected client to be of type Client"),
        ({"client": {"optimizer": "adam"}}, "does not read"),
        ({"model": {"name": 3}}, "expected model.name to be of type str"),
        ({"model": {"name": "cnn", "more": 3}}, "does not read"),
        ({"model": []}, "expected model to be of type Spec"),
        ({"transforms": "clip"}, "does not read"),
        ({"transforms": {"name": "clip"}}, "expected transforms to be of type list"),
        ({"rounds": None}, "expected rounds to be of type int"),
    ],
)
def test_saved_experiment_of_other_types_is_told_in_one_line(change, hint):
    with pytest.raises(UserError, match=hint) as caught:
        config.from_dict(config.to_dict(Experiment()) | change)
    assert "\n" not in str(caught.value)
    assert config.from_dict(config.to_dict(Experiment())) == Experiment()


def test_a_config_file_runs_as_it_was_read_and_leaves_nothing_behind(tmp_path):
    file = tmp_path / "mine.py"
    for rounds in (3, 4):  # as long, and in the same second
        experiment = _EXPERIMENT.format(f"rounds={rounds}, name=Path(__file__).stem")
        file.write_text(f"from pathlib import Path\n{experiment}")
        assert config_file.read(str(file)).rounds == rounds
        assert config_file.read(str(file)).name == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_option_that_json_cannot_hold_is_told_in_one_line(tmp_path, capsys):
    file = tmp_path / "scheduled.py"
    file.write_text(
        "import optax\n"
        "from fedjax_med.experiment.config import Experiment, Spec\n"
        "def get_config():\n"
        "    rate = {'learning_rate': optax.constant_schedule(0.1)}\n"
        "    return Experiment(server_optimizer=Spec('sgd', rate))\n"
    )
    assert cli.main(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--config.server_optimizer.options.learning_rate, got function" in line
    assert "client.schedule" in line


def test_files_that_options_name_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = Spec("by_column", {"path": "sites.csv"})
    complete = resolve.complete(dataclasses.replace(Experiment(), partition=spec))
    assert complete.partition.options["path"] == str(tmp_path / "sites.csv")
    given = ("--config.partition.name=by_column", "--config.partition.options.path=sites.csv")
    assert parsed(*given).partition == complete.partition
    unset = resolve.complete(dataclasses.replace(Experiment(), partition=Spec("by_column")))
    assert unset.partition.options["path"] == ""


def test_option_without_default_has_to_be_given():
    experiment = dataclasses.replace(Experiment(), server_optimizer=Spec("sgd"))
    with pytest.raises(UserError, match="needs the option 'learning_rate'"):
        resolve.complete(experiment)


def test_option_that_does_not_exist_is_refused_in_a_config_file_too():
    experiment = dataclasses.replace(Experiment(), model=Spec("cnn", {"width": 3}))
    with pytest.raises(UserError, match="Did you mean 'widths'"):
        resolve.complete(experiment)


@pytest.mark.parametrize(
    ("field", "name", "option", "value", "kind"),
    [
        ("aggregator", "trimmed_mean", "share", "0.2", "float"),
        ("aggregator", "krum", "hostile", 0.5, "int"),
        ("aggregator", "krum", "keep", True, "int"),
        ("transforms", "top_k", "share", True, "float"),
        ("transforms", "top_k", "error_feedback", 1, "bool"),
        ("transforms", "low_precision", "kind", 16, "str"),
        ("attacks", "sign_flip", "clients", 2, "tuple such as (0,)"),
        ("attacks", "sign_flip", "clients", "0", "tuple such as (0,)"),
        ("attacks", "sign_flip", "clients", ("0",), "tuple such as (0,)"),
        ("server_optimizer", "sgd", "nesterov", "yes", "bool"),
    ],
)
def test_option_of_another_type_than_its_default_is_refused(field, name, option, value, kind):
    spec = Spec(name, {option: value})
    many = field in overrides.LISTS
    experiment = dataclasses.replace(Experiment(), **{field: [spec] if many else spec})
    path = f"--config.{field}{'[0]' * many}.options.{option}"
    with pytest.raises(UserError) as caught:
        resolve.complete(experiment)
    assert str(caught.value) == f"expected {path} to be of type {kind}, got {value!r}."


def test_option_may_be_an_int_for_a_float_a_list_for_a_tuple_and_a_tree_for_a_mask():
    mask = {"learning_rate": 1, "weight_decay_mask": {"classifier": True}}
    experiment = resolve.complete(
        dataclasses.replace(
            Experiment(),
            aggregator=Spec("trimmed_mean", {"share": 0}),
            model=Spec("cnn", {"widths": [4, 8]}),
            server_optimizer=Spec("lars", mask),
            attacks=[Spec("sign_flip", {"clients": []})],
        )
    )
    assert experiment.server_optimizer.options["weight_decay_mask"] == {"classifier": True}


def test_last_of_several_overrides_of_a_field_wins():
    assert parsed("--config.rounds=3", "--config.rounds=7").rounds == 7
    first, last = (f"--config.model.options.widths={widths}" for widths in ("(4, 8)", "(2,)"))
    assert parsed(first, last).model.options["widths"] == (2,)


@pytest.mark.parametrize("given", ["classifier,block_0", "('classifier','block_0')"])
def test_names_with_commas_are_several(given):
    chosen = ("--config.algorithm.name=fed_per", f"--config.algorithm.options.local={given}")
    assert parsed(*chosen).algorithm.options["local"] == ("classifier", "block_0")


def test_shelves_hold_what_their_folders_hold():
    assert "fed_avg" in components.names("algorithms")
    assert {"adam", "sgd", "yogi"} <= set(components.names("optax"))
    assert not any(name.startswith("_") for name in components.names("optax"))


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert "Did you mean 'train'" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", sorted(help_text.commands_by_name()))
def test_help_of_each_command_is_readable(command, capsys):
    for flag in ("--help", "--helpshort"):
        assert cli.main([command, flag]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"fedjax-med {command}: ")
        assert "--data_dir" in text or command in ("cache", "export", "predict", "report")
        assert max(map(len, text.splitlines())) <= 100


def test_usage_lists_the_commands(capsys):
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for file in (Path(cli.__file__).parent / "commands").glob("[a-z]*.py"):
        assert f"  {file.stem} " in text
