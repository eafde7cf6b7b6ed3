"""Private runs in the workdir of another one: they share its secret and none of its noise."""

import math
import os
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from fedjax_med.cli import main as cli
from fedjax_med.data.datasets import lesions
from fedjax_med.experiment import config
from fedjax_med.experiment.config import Checkpoint
from fedjax_med.run import noise_key, provenance
from fedjax_med.run.checkpoint import Checkpoints

TINY = f"--config={tiny.__file__}"
QUICK = (
    "--config.client.epochs=1",
    "--config.client.schedule=constant",
    "--config.client.optimizer.name=sgd",
    "--config.client.optimizer.options.learning_rate=0.1",
    "--config.model.name=linear",
    "--config.privacy.accountant=rdp",
    "--config.validation_fraction=0",
    "--config.rounds=1",
    "--config.partition.name=by_column",
    "--config.map_clients=sequential",  # this and the images as they are: compiled in less time
    "--config.augment.flip=False",
    "--config.augment.right_angles=False",
    "--config.augment.rotation=0",
    "--config.augment.min_scale=1",
    "--config.augment.brightness=0",
    "--config.augment.contrast=0",
    "--config.augment.saturation=0",
    "--config.augment.hue=0",
)
# So much noise that a model is hardly anything else.
UNITS = {
    "client": ("--config.privacy.unit=client", "--config.privacy.noise_multiplier=9"),
    "example": ("--config.privacy.unit=example", "--config.privacy.noise_multiplier=90"),
}


@pytest.fixture(scope="module", params=UNITS)
def run(request, tmp_path_factory):
    """The workdir of a run of one round, its arguments, its model and its identity."""
    folder = tmp_path_factory.mktemp(request.param)
    write_sites(folder / "sites.csv", 0)
    workdir = folder / "run"
    assert train(workdir, *UNITS[request.param]) == 0
    return workdir, UNITS[request.param], model(workdir), saved(workdir)


def write_sites(file, turn):
    """Say whose the images are; after a `turn` some are another client's."""
    cache = str(file.parent / "cache")
    images = lesions.build("", cache, 16, "auto", train_size=90, test_size=27).train.name
    sites = [(number + (number < turn)) % 3 for number in range(len(images))]
    rows = [f"{image},{site}" for image, site in zip(images, sites, strict=True)]
    file.write_text("\n".join(["image,site", *rows]))


def train(workdir, *arguments):
    given = (
        f"--config.partition.options.path={workdir.parent / 'sites.csv'}",
        f"--cache_dir={workdir.parent / 'cache'}",
        f"--workdir={workdir}",
    )
    return cli.main(["train", TINY, *QUICK, *given, *arguments])


def train_again(workdir, *arguments):
    """Train from the first round on, with the secret that is there; the model of round 1."""
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "metrics.jsonl").unlink()
    assert train(workdir, *arguments) == 0
    return model(workdir)


def read(workdir, number, item, args):
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        return checkpoints._store.item(number, **{item: args})
    finally:
        checkpoints.close()


def model(workdir, number=1):
    """All numbers of a round's global model."""
    params = read(workdir, number, "state", ocp.args.StandardRestore())["server"]["params"]
    leaves = [params]
    while any(isinstance(leaf, dict) for leaf in leaves):
        leaves = [
            one for leaf in leaves for one in (leaf.values() if isinstance(leaf, dict) else [leaf])
        ]
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)


def saved(workdir, number=1):
    return read(workdir, number, "identity", ocp.args.JsonRestore())


def assert_independent(one, other):
    """Of thousands of numbers; with the same noise the difference would be next to nothing."""
    np.testing.assert_allclose(np.std(one - other), math.hypot(one.std(), other.std()), rtol=0.06)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


OTHERS = {
    "another learning rate": ("--config.client.optimizer.options.learning_rate=0.12",),
    "another noise multiplier": ("--config.privacy.noise_multiplier=95",),
}
CLIENT = pytest.mark.parametrize("run", ["client"], indirect=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_another_experiment_has_other_noise(run, name):
    workdir, given, first, _ = run
    other = train_again(workdir, *given, *OTHERS[name])
    assert_independent(first, other)
    if "unit=client" in given[0] and "rate" in name:  # in the mean of three updates, clipped to 1
        np.testing.assert_allclose(np.std(first - other), math.sqrt(2) * 9 / 3, rtol=0.04)


def test_other_data_under_the_same_name_have_other_noise(run):
    workdir, given, first, before = run
    write_sites(workdir.parent / "sites.csv", 9)
    try:
        assert_independent(first, train_again(workdir, *given))
    finally:
        write_sites(workdir.parent / "sites.csv", 0)
    # Nothing else was another.
    assert provenance.differences(before, saved(workdir)) == [
        "the train images, their labels or their division over the clients differ"
    ]


@pytest.mark.slow
@CLIENT
def test_noise_that_was_solved_for_other_rounds_is_other_noise(run):
    workdir, given, _, _ = run
    solved = (*given, "--config.privacy.target_epsilon=0.1", "--config.checkpoint.every=1")
    one = train_again(workdir, *solved)
    assert_independent(one, train_again(workdir, *solved, "--config.rounds=2"))


@CLIENT
def test_the_same_run_has_the_same_bits(run):
    workdir, given, first, _ = run
    np.testing.assert_array_equal(train_again(workdir, *given), first)
    free = ("--config.name=x", "--config.privacy.budget=1e9", "--config.checkpoint.every=1")
    more = train_again(workdir, *given, *free, "--config.rounds=2")
    np.testing.assert_array_equal(more, first)


@CLIENT
def test_a_run_that_goes_on_after_an_upgrade_keeps_its_noise(run, tmp_path, monkeypatch, capsys):
    workdir, given, first, _ = run
    more = (*given, "--config.rounds=2", "--config.checkpoint.every=1")
    train_again(workdir, *more)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(workdir.parent / "sites.csv", tmp_path)
    shutil.copy(workdir / "noise_key", resumed)
    assert train(resumed, *given) == 0
    np.testing.assert_array_equal(model(resumed), first)
    to_dict, from_dict = config.to_dict, config.from_dict
    for room in (config, noise_key):
        monkeypatch.setattr(room, "to_dict", lambda given: to_dict(given) | {"a newer field": 1})
    monkeypatch.setattr(
        config,
        "from_dict",
        lambda values: from_dict({k: v for k, v in values.items() if k != "a newer field"}),
    )
    monkeypatch.setattr(provenance, "code_version", lambda: "9.9.9+another")
    assert train(resumed, *more) == 0
    assert "-> 9.9.9+another. The last bits may differ" in capsys.readouterr().out
    assert saved(resumed, 2)["experiment"]["a newer field"] == 1
    np.testing.assert_array_equal(model(resumed, 2), model(workdir, 2))


def test_a_secret_that_others_can_read_ends_a_run_in_one_line(tmp_path, capsys):
    write_sites(tmp_path / "sites.csv", 0)
    file = tmp_path / "run" / "noise_key"
    file.parent.mkdir()
    file.write_text("ab" * 32)
    capsys.readouterr()
    for make, said in (
        (lambda: file.chmod(0o640), f"chmod 600 {file}"),
        (lambda: (file.unlink(), os.mkfifo(file, 0o600)), "got a named pipe"),
    ):
        make()
        assert train(tmp_path / "run", *UNITS["client"]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
        assert not (tmp_path / "run" / "checkpoints").exists()
