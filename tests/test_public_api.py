"""The library without files or flags: what `fedjax_med` exports does what its docs say."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx
from hospitals import CLASSES, IMAGES, KEY, arrays, averaging, cnn, trained

import fedjax_med as fm


def test_arrays_become_a_model_that_tells_the_classes_apart():
    images, labels, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels, hospital)
    results = trained(fm.Process(averaging(model), fm.aggregators.mean.build()), model, clients)
    assert [result.round for result in results] == [1, 2, 3, 4, 5, 6]
    assert results[-1].train_loss < results[0].train_loss
    found = fm.evaluate(model, results[-1].state.server.params, images, labels)
    assert found["accuracy"] > 0.9
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([row["sensitivity"] for row in found["per_class"].values()])
    )


def test_an_own_aggregator_and_an_own_server_step():
    images, labels, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels, hospital)

    def middle(messages, client_info, state, key):
        counts = client_info.num_examples > 0
        return jax.tree.map(
            lambda leaf: jnp.median(leaf[counts.argsort()], axis=0), messages
        ), state

    own = fm.Aggregator(lambda message, num_clients, num_senders: (), middle)
    base = averaging(model)
    halved = base._replace(
        server_update=lambda server, message: base.server_update(
            server, jax.tree.map(lambda leaf: leaf / 2, message)
        )
    )
    first = model.init(jax.random.key(0), IMAGES)
    (whole,) = trained(fm.Process(base, fm.aggregators.median.build()), model, clients, 1)
    (half,) = trained(fm.Process(halved, own), model, clients, 1)
    expected = jax.tree.map(lambda a, b: (a + b) / 2, first, whole.state.server.params)
    toy.assert_close(half.state.server.params, expected, rtol=1e-4, atol=1e-5)


def regression():
    """Four clients' examples of a linear function of two inputs, and its model."""
    rng = np.random.default_rng(1)
    inputs = {"dose": rng.normal(size=(60, 2)), "age": rng.normal(size=60)}
    inputs = {name: leaf.astype(np.float32) for name, leaf in inputs.items()}
    target = inputs["dose"] @ np.array([1.0, -2.0], np.float32) + 3 * inputs["age"]

    def loss(params, inputs, target, key):
        return (inputs["dose"] @ params["w"] + params["a"] * inputs["age"] - target) ** 2

    return inputs, target.astype(np.float32), np.arange(60) % 4, loss


def test_examples_may_be_any_tree_of_arrays():
    inputs, target, hospital, loss = regression()
    trainer = fm.LocalTrainer(fm.client.mean_gradient(loss), optax.sgd(0.05), 2, batch_size=4)
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    process = fm.Process(
        algorithm, fm.aggregators.mean.build(), fm.cohorts.uniform.build(4, size=3)
    )
    clients = fm.data.from_arrays(inputs, target, hospital)
    simulation = fm.Simulation(process, batch_size=4)
    state = simulation.init({"w": jnp.zeros(2), "a": jnp.float32(0)}, clients)
    *_, last = simulation.rounds(state, clients, KEY, num_rounds=12)
    np.testing.assert_allclose(last.state.server.params["w"], [1, -2], atol=0.05)
    np.testing.assert_allclose(last.state.server.params["a"], 3, atol=0.05)


def test_mean_gradient_is_that_of_the_real_examples_alone():
    inputs, target, _, loss = regression()
    params = {"w": jnp.array([0.5, 0.5]), "a": jnp.float32(1)}
    gradient = fm.client.mean_gradient(loss)
    real = jax.tree.map(lambda leaf: leaf[:5], (inputs, target))
    expected = jax.grad(lambda p: loss(p, *real, None).mean())(params)
    cut = jax.tree.map(lambda leaf: leaf[:8].copy(), (inputs, target))
    for leaf in jax.tree.leaves(cut):
        leaf[5:] = np.nan
    found, sums = gradient(params, fm.Examples(*cut, jnp.arange(8) < 5), KEY)
    toy.assert_close(found, expected)
    assert sums["count"] == 5
    np.testing.assert_allclose(sums["loss"], loss(params, *real, None).sum(), rtol=1e-5)


class Net(nnx.Module):
    """A module that takes no random numbers."""

    def __init__(self, channels, rngs):
        self.convolution = nnx.Conv(channels, 4, (3, 3), rngs=rngs)
        self.classifier = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, images):
        return self.classifier(nnx.relu(self.convolution(images)).mean((1, 2)))


class Normalised(Net):
    """A module with running statistics."""

    def __init__(self, channels, rngs):
        super().__init__(channels, rngs)
        self.normalisation = nnx.BatchNorm(4, rngs=rngs)


def test_an_own_flax_module_trains():
    images, labels, hospital = arrays()
    model, clients = fm.models.from_nnx(Net), fm.data.from_arrays(images, labels, hospital)
    results = trained(fm.Process(averaging(model), fm.aggregators.mean.build()), model, clients)
    assert results[-1].train_loss < results[0].train_loss


def test_a_module_that_keeps_statistics_is_refused():
    with pytest.raises(fm.UserError, match=r"BatchStat at normalisation\.mean.*nnx\.GroupNorm"):
        fm.models.from_nnx(Normalised).init(KEY, IMAGES)


def test_a_loss_of_another_shape_is_refused():
    inputs, target, _, loss = regression()
    examples = fm.Examples(inputs, target, jnp.ones(60, bool))
    params = {"w": jnp.zeros(2), "a": jnp.float32(0)}
    for wrong in (lambda *given: loss(*given)[:, None], lambda *given: loss(*given).mean()):
        with pytest.raises(fm.UserError, match="expected the loss of each of 60 examples"):
            fm.client.mean_gradient(wrong)(params, examples, KEY)


@pytest.mark.parametrize(
    ("classes", "labels", "said"),
    [
        (2, lambda y: y % 2, "expected logits of 2 classes for each of 8 images"),
        (CLASSES, lambda y: y.astype(np.float32), "expected labels int .*got float32"),
        (CLASSES, lambda y: np.eye(CLASSES, dtype=np.int32)[y], "expected labels int .*got int32"),
    ],
)
def test_classes_that_do_not_fit_the_model_are_refused(classes, labels, said):
    images, true, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels(true), hospital)
    gradient = fm.client.cross_entropy(model, num_classes=classes)
    trainer = fm.LocalTrainer(gradient, optax.sgd(0.1), batch_size=8)
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    with pytest.raises(fm.UserError, match=said):
        trained(fm.Process(algorithm, fm.aggregators.mean.build()), model, clients, 1)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"batch_size": -1}])
def test_local_training_that_trains_nothing_is_refused(options):
    trainer = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), **options)
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    with pytest.raises(fm.UserError, match="epochs >= 1 and batch_size >= 0"):
        fm.Process(algorithm, fm.aggregators.mean.build()).init(toy.params(), toy.federation((3,)))


def test_importing_the_package_loads_no_jax():
    code = "import sys, fedjax_med as fm; fm.__version__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_names_for_type_checkers_are_those_that_are_exported():
    tree = ast.parse(Path(fm.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.asname for node in block.body for alias in node.names}
    assert told == set(fm.__all__)
    assert set(fm.__all__) <= set(dir(fm))
    for name in fm.__all__:
        assert getattr(fm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fm.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("package", "name", "near"),
    [
        ("fedjax_med", "Simulatoin", "Simulation"),
        ("fedjax_med.aggregators", "medain", "median"),
        ("fedjax_med.algorithms", "reportloss", "report_loss"),
        ("fedjax_med.privacy", "dpmean", "dp_mean"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_one(package, name, near):
    said = rf"'{package}' has no attribute '{name}'\. Did you mean: '{near}'\?$"
    with pytest.raises(AttributeError, match=said):
        getattr(importlib.import_module(package), name)
