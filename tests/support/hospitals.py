"""Images of four hospitals, as a program holds them, and the small network that learns them."""

import functools

import jax
import numpy as np
import optax

import fedjax_med as fm

IMAGES, CLASSES = (16, 16, 3), 3
KEY = jax.random.key(1)


@functools.cache
def arrays():
    """Images whose class shows in their brightness, of 4 hospitals by name."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 80)
    images = rng.integers(0, 100, (80, *IMAGES)) + 70 * labels[:, None, None, None]
    return images.astype(np.uint8), labels, rng.choice(["a", "b", "c", "d"], 80)


def cnn():
    return fm.models.cnn.build(CLASSES, widths=(4, 8), groups=2)


def averaging(model, **options):
    gradient = fm.client.cross_entropy(model, num_classes=CLASSES)
    trainer = fm.LocalTrainer(gradient, optax.adam(0.01), epochs=2, batch_size=8)
    return fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0), **options)


def trained(process, model, clients, num_rounds=6):
    simulation = fm.Simulation(process)
    state = simulation.init(model.init(jax.random.key(0), IMAGES), clients)
    return list(simulation.rounds(state, clients, KEY, num_rounds=num_rounds))
