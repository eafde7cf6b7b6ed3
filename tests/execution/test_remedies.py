"""Errors say what was given, whose fault it is, and what to do, for the library and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from hospitals import KEY

import fedjax_med as fm
from fedjax_med.experiment import config

LABELS = np.arange(6) % 3
IMAGES = np.zeros((6, *toy.IMAGE), np.uint8)


def start(images=IMAGES, labels=LABELS, params=None, aggregator=None, loss=None):
    gradient = loss or fm.client.cross_entropy(toy.model(), num_classes=3)
    trainer = fm.LocalTrainer(gradient, optax.sgd(0.1))
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    process = fm.Process(algorithm, aggregator or fm.aggregators.mean.build())
    clients = fm.data.from_arrays(images, labels, LABELS)
    simulation = fm.Simulation(process)
    return simulation, simulation.init(params or toy.params(), clients), clients


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (IMAGES.astype(int), r"got int32 \[N, 4, 4, 3\].*\(images\.astype\('uint8'\) if they go"),
        (IMAGES / 255, r"got float32 \[N, 4, 4, 3\].* from 0 to 1 and none is NaN"),
        (IMAGES[..., :1], r"got uint8 \[N, 4, 4, 1\].*numpy\.repeat\(images, 3, axis=-1\)"),
        (IMAGES[..., 0], r"\[N, 4, 4\].*numpy\.repeat\(images\[\.\.\., None\], 3, axis=-1\)"),
        (np.moveaxis(IMAGES, -1, 1), r"\[N, 3, 4, 4\].*numpy\.moveaxis\(images, 1, -1\)"),
        ({"image": IMAGES}, "got a dict of arrays: give `prepare`"),
    ],
)
def test_images_of_another_form_are_refused_with_their_remedy(images, said):
    with pytest.raises(fm.UserError, match=rf"^expected images uint8 .*{said}"):
        start(images)
    if not isinstance(images, dict):
        said = said.replace("int32", "int(32|64)").replace("float32", "float(32|64)")
        with pytest.raises(fm.UserError, match=rf"^expected images uint8 .*{said}"):
            fm.evaluate(toy.model(), toy.params(), images, LABELS)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.eye(3, dtype=int)[LABELS], r"int32 \[N, 3\]: labels\.argmax\(-1\)"),
        (LABELS[:, None], r"int32 \[N, 1\]: labels\.reshape\(len\(labels\)\)"),
        (LABELS.astype(float), r"float32 \[N\]: labels\.astype\(int\)"),
        ({"y": LABELS}, "labels int .* got a tree of arrays"),
    ],
)
def test_labels_of_another_form_are_refused_with_their_remedy(labels, said):
    with pytest.raises(fm.UserError, match=said):
        start(labels=labels)


def test_labels_from_one_are_told():
    simulation, state, clients = start(labels=LABELS + 1)
    with pytest.raises(fm.UserError, match=r"from 0 to K - 1\? They go from 1 to 3: subtract 1"):
        next(simulation.rounds(state, clients, KEY, num_rounds=1))


def test_an_aggregators_own_error_is_not_put_on_the_examples():
    def init(message, clients, senders):
        return jnp.zeros(2) + jnp.zeros(3)

    aggregator = fm.Aggregator(init, lambda messages, info, state, key: (messages, state))
    with pytest.raises(fm.UserError, match=r"^the aggregator's init failed: "):
        start(aggregator=aggregator)


def test_parameters_of_another_model_are_named_as_a_cause():
    with pytest.raises(fm.UserError, match="parameters are of another model: there is no 'w'"):
        start(params={"v": jnp.zeros(3)})


def test_an_if_on_a_traced_value_stays_the_error_of_jax():
    def loss(params, inputs, labels, key):
        return labels if labels[0] else -labels

    with pytest.raises(jax.errors.TracerBoolConversionError):
        start(loss=fm.client.mean_gradient(loss))


def test_a_component_that_is_no_spec_is_told_how_to_write_it():
    experiment = fm.Experiment(aggregator="a:b")
    with pytest.raises(fm.UserError, match=r"got 'a:b': write Spec\('a:b', \{\.\.\.\}\)"):
        config.check_types(experiment, fm.Experiment(), "the experiment")


def test_advice_is_that_of_the_library_too():
    with pytest.raises(fm.UserError, match=r"give larger images \(image_size\)"):
        fm.models.cnn.build(2).init(KEY, (4, 4, 3))
    with pytest.raises(fm.UserError, match="its option size"):
        fm.cohorts.uniform.build(3, size=4)
