"""Values out of their range, and parts that do not go together."""

import operator

import optax
import pytest
import toy

from fedjax_med.cli import main as cli
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.errors import UserError
from fedjax_med.experiment import resolve, validation
from fedjax_med.experiment.build import build_process
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.plan import check_before_data


def build(**fields):
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), features=toy.features())
    return build_process(resolve.complete(Experiment(**fields)), training, toy.CLASSES)


def changed(field, value):
    given = Experiment()
    *parts, last = field.split(".")
    setattr(operator.attrgetter(".".join(parts))(given) if parts else given, last, value)
    return given


@pytest.mark.parametrize("field", validation._RANGES)
def test_every_number_with_a_range_is_refused_outside_of_it(field):
    with pytest.raises(UserError, match=rf"expected --config\.{field} .*, got -1\."):
        resolve.settle(resolve.complete(changed(field, -1)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", 0),
        ("seed", 2**32),
        ("loss.focal", 0.5),
        ("loss.class_balance", 1.0),
        ("participation.participation_rate", 0.0),
        ("participation.participation_rate", 1.1),
        ("participation.straggler_rate", 1.0),
        ("privacy.clip_norm", 0.0),
        ("privacy.delta", 1.0),
        ("tta_views", 3),
        ("augment.erase", 1.1),
    ],
)
def test_the_ends_of_a_range_are_where_the_message_says(field, value):
    with pytest.raises(UserError, match=rf"expected --config\.{field} "):
        resolve.settle(resolve.complete(changed(field, value)))


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("b1", 1.0, r"in \[0, 1\)"),
        ("momentum", -0.1, r"in \[0, 1\)"),
        ("learning_rate", -0.1, ">= 0"),
        ("eps", -1e-8, ">= 0"),
    ],
)
@pytest.mark.parametrize("field", ["client.optimizer", "server_optimizer"])
def test_options_of_optimizers_have_ranges_of_their_own(field, option, value, wanted):
    name = "sgd" if option == "momentum" else "adam"
    options = {"learning_rate": 0.1, option: value}
    with pytest.raises(UserError, match=rf"--config\.{field}\.options\.{option} {wanted}"):
        resolve.settle(resolve.complete(changed(field, Spec(name, options))))


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (3, 3), (3, -1)])
def test_a_fold_that_does_not_exist_is_refused(folds, fold):
    with pytest.raises(UserError, match=f"got folds={folds} and fold={fold}"):
        resolve.settle(resolve.complete(Experiment(folds=folds, fold=fold)))


@pytest.mark.parametrize("algorithm", ["ifca", "cfl"])
@pytest.mark.parametrize("aggregator", ["q_fair", "agnostic"])
def test_aggregator_of_one_global_models_losses_refuses_clusters(algorithm, aggregator):
    with pytest.raises(UserError, match=f"{aggregator} weighs clients by the loss of one global"):
        build(algorithm=Spec(algorithm), aggregator=Spec(aggregator))


@pytest.mark.parametrize("field", ["target_epsilon", "budget"])
def test_an_epsilon_that_protects_nobody_is_refused_before_training(field):
    given = Experiment()
    setattr(given.privacy, field, 8.0)
    with pytest.raises(UserError, match=rf"privacy\.{field}=8 protects nothing by itself"):
        check_before_data(resolve.settle(resolve.complete(given)))


WRONG = {
    "policy": "nonsense",
    "rounds": "-3",
    "image_size": "0",
    "image_storage": "tape",
    "crop": "round",
    "setting": "x",
    "fold": "7",
    "folds": "1",
    "local_client": "-1",
    "tta_views": "3",
    "validation_fraction": "1.5",
    "client.schedule": "x",
    "client.epochs": "0",
    "client.optimizer.options.learning_rate": "-1",
    "participation.on_invalid": "x",
    "privacy.unit": "x",
    "privacy.accountant": "x",
    "privacy.noise_from": "x",
    "privacy.delta": "2",
    "checkpoint.every": "0",
    "operating.specificity": "1",
    "operating.prevalence": "-1",
    "checkpoint.tested": "x",
    "map_clients": "x",
    "augment.min_scale": "0",
    "augment.hue": "-1",
    "seed": "-1",
}


@pytest.mark.parametrize("field", WRONG)
@pytest.mark.parametrize("command", ["audit", "partition", "train", "compare", "crossvalidate"])
def test_every_command_checks_every_value_before_it_does_anything(
    tmp_path, monkeypatch, capsys, command, field
):
    monkeypatch.chdir(tmp_path)
    if field == "fold":
        given = ["--config.folds=5", "--config.fold=7"]
    else:
        given = [f"--config.{field}={WRONG[field]}"]
    assert cli.main([command, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert field.rpartition(".")[2] in line or WRONG[field] in line
    assert "data_dir" not in line
    assert not list(tmp_path.iterdir())
