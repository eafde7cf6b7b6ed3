"""Runs of `fedjax-med train` with methods that keep states, own models, updates or attackers."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fedjax_med.cli import main as cli
from fedjax_med.core.aggregation import ClientInfo
from fedjax_med.data.dataset import Split
from fedjax_med.evaluation import predictions
from fedjax_med.evaluation.predict import Validation, predict, predict_validation
from fedjax_med.execution.compilation import own_models
from fedjax_med.experiment import build, config, resolve
from fedjax_med.experiment.config import Checkpoint
from fedjax_med.experiment.config_file import read
from fedjax_med.experiment.plan import compile_plan, first_state
from fedjax_med.run import message_log
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.evaluate import _test_predictions
from fedjax_med.run.load import load_run, read_run, restore

TINY = Path(tiny.__file__)
STEADY = ("--config.client.schedule=constant", "--config.client.epochs=1")


def train(workdir, *arguments, rounds=2):
    code = cli.main(
        [
            "train",
            f"--config={TINY}",
            f"--config.rounds={rounds}",
            "--config.validation_fraction=0.3",
            *STEADY,
            f"--workdir={workdir}",
            *arguments,
        ]
    )
    assert code == 0
    return workdir


def evaluation(workdir):
    return json.loads((workdir / "evaluation.json").read_text())


def state_of(workdir):
    """The run's plan, its data and its last state, as `evaluate` reads them."""
    run = load_run(read_run(workdir))
    return run.plan, run.data, restore(run).state


def digest(workdir, number):
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        return checkpoints.read_identity(number)["digest"]
    finally:
        checkpoints.close()


STATES = {
    "control variates, memory of what was not sent, a moving average": (
        "--config.algorithm.name=scaffold",
        "--config.transforms=adaptive_clip,top_k",
        "--config.aggregator.name=trimmed_mean",
        "--config.aggregator.options.share=0.34",
        "--config.ema_decay=0.5",
        "--config.participation.participation_rate=0.6",
    ),
    "own models and weights of the clients": (
        "--config.algorithm.name=ditto",
        "--config.aggregator.name=agnostic",
        "--config.server_optimizer.name=adam",
        "--config.server_optimizer.options.learning_rate=0.01",
    ),
    "clusters": (
        "--config.algorithm.name=cfl",
        "--config.algorithm.options.mean_norm=9.0",
        "--config.algorithm.options.max_norm=0.001",
        "--config.transforms=random_k",
        "--config.aggregator.name=median",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("flags", STATES.values(), ids=STATES)
def test_a_stopped_run_goes_on_with_the_bits_of_one_never_stopped(flags, tmp_path):
    whole = train(tmp_path / "whole", *flags, rounds=4)
    parts = train(tmp_path / "parts", *flags, rounds=2)
    train(parts, *flags, rounds=4)
    assert digest(parts, 4) == digest(whole, 4)


@pytest.mark.slow
def test_clients_with_models_of_their_own_are_validated_and_tested_by_them(tmp_path):
    workdir = train(tmp_path / "run", "--config.algorithm.name=ditto", "--evaluate")
    found = evaluation(workdir)
    plan, data, state = state_of(workdir)
    personal, model = own_models(compile_plan(plan), state), plan.model
    mine = [personal(client) for client in range(3)]
    assert not np.array_equal(jax.tree.leaves(mine[0])[0], jax.tree.leaves(mine[1])[0])

    def accuracy(params, image, label):
        normal = (np.asarray(image, np.float32) / 255 - model.mean) / model.std
        guess = model.apply(params, jnp.asarray(normal, jnp.float32), None).argmax(axis=1)
        return float((np.asarray(guess) == label).mean())

    held = data.validation
    for client, part in enumerate(held.indices):
        expected = accuracy(mine[client], held.split.image[part], held.split.label[part])
        assert found["clients"]["accuracy"][client] == pytest.approx(expected)
    own = [accuracy(params, data.test.image, data.test.label) for params in mine]
    assert found["own_models"]["accuracy"] == pytest.approx(own)


def test_own_models_predict_their_own_clients_examples():
    model = build.build_model(resolve.complete(read(str(TINY))), 3)
    params = [model.init(jax.random.key(seed), (16, 16, 3)) for seed in range(2)]
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3)).astype(np.uint8)
    validation = Validation(images, np.zeros(5, np.int32), np.array([2, 3], np.int32))
    expected = [predict(model, params[0], images[:2]), predict(model, params[1], images[2:])]
    actual = predict_validation(model, lambda client: params[client], validation)
    np.testing.assert_allclose(actual, np.concatenate(expected), rtol=1e-5)


@pytest.mark.parametrize("owner", [(0, 1, 1, 0, 1), (0, 1, -1, 0, 1)])
def test_test_image_of_a_client_is_for_its_own_model_and_of_nobody_for_all(owner):
    model = build.build_model(resolve.complete(read(str(TINY))), 3)
    params = [model.init(jax.random.key(seed), (16, 16, 3)) for seed in range(2)]
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3)).astype(np.uint8)
    test = Split(images, np.zeros(5, np.int32), *(np.array(list("abcde")),) * 3, np.array(owner))
    each = np.stack([predict(model, one, images) for one in params])
    found, _ = _test_predictions(
        model, params.__getitem__, SimpleNamespace(test=test), config.Experiment(num_clients=2)
    )
    expected = each.mean(axis=0) if -1 in owner else each[np.array(owner), np.arange(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_hospitals_test_images_of_a_fold_are_its_own_models(tmp_path):
    workdir = train(
        tmp_path / "run",
        "--config.algorithm.name=ditto",
        "--config.partition.name=dirichlet",
        "--config.folds=3",
        "--evaluate",
    )
    plan, data, state = state_of(workdir)
    personal = own_models(compile_plan(plan), state)
    owner = data.test.client
    assert set(owner.tolist()) == {0, 1, 2}
    told = predictions.read(workdir / "predictions.csv")[0].probabilities
    for client in range(3):
        images = np.asarray(data.test.image)[owner == client]
        expected = predict(plan.model, personal(client), images)
        np.testing.assert_allclose(told[owner == client], expected, atol=1e-4)


@pytest.mark.slow
def test_without_federation_nobody_attacks(tmp_path):
    attacked = ("--config.attacks=backdoor", "--config.setting=centralized", "--evaluate")
    workdir = train(tmp_path / "run", *attacked, rounds=1)
    assert "backdoors" not in evaluation(workdir)


@pytest.mark.slow
def test_kept_updates_are_what_the_server_reduced(tmp_path):
    workdir = train(tmp_path / "run", "--config.keep_updates=True", rounds=1)
    plan, data, after = state_of(workdir)
    first = first_state(plan, data.train.shapes())
    kept = message_log.load(workdir, 1, first.server.params)
    assert kept.client.tolist() == [0, 1, 2]
    assert kept.weight.tolist() == data.train.sizes.tolist()
    client_info = ClientInfo(*map(jnp.asarray, (kept.weight, kept.client, kept.loss, kept.group)))
    message = jax.tree.map(jnp.asarray, kept.message)
    reduced, _ = plan.process.aggregator.update(
        message, client_info, first.aggregator, jax.random.key(0)
    )
    server = plan.process.algorithm.server_update(first.server, reduced)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        server.params,
        after.server.params,
    )


@pytest.mark.slow
def test_backdoor_tells_how_often_its_trigger_works(tmp_path, capsys):
    workdir = train(
        tmp_path / "run",
        "--config.attacks=backdoor",
        "--config.attacks[0].options.target=2",
        "--config.participation.on_invalid=skip",
        "--evaluate",
    )
    (door,) = evaluation(workdir)["backdoors"]
    plan, data, state = state_of(workdir)
    others = data.test.label != 2
    assert door["n"] == others.sum()
    assert door["target"] == data.class_names[2]
    (attack,) = plan.process.faults.attacks
    images = np.asarray(attack.trigger(jnp.asarray(data.test.image[others])))
    assert not np.array_equal(images, data.test.image[others])
    taken = predict(plan.model, state.server.params, images).argmax(axis=1) == 2
    assert door["success"] == pytest.approx(taken.mean())
    assert f"of {others.sum()} images with its trigger" in capsys.readouterr().out


def test_validation_of_all_is_the_same_for_one_model_and_for_equal_own_models():
    model = build.build_model(resolve.complete(read(str(TINY))), 3)
    params = model.init(jax.random.key(0), (16, 16, 3))
    images = np.random.default_rng(1).integers(0, 255, (4, 16, 16, 3)).astype(np.uint8)
    validation = Validation(images, np.zeros(4, np.int32), np.array([1, 0, 3], np.int32))
    one = predict_validation(model, params, validation)
    own = predict_validation(model, lambda client: params, validation)
    np.testing.assert_allclose(own, one, rtol=1e-5)
