"""Train a shipped network on arrays of images, and evaluate it."""

import jax
import numpy as np
import optax

import fedjax_med as fm

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 60)
images = (rng.integers(0, 90, (60, 16, 16, 3)) + 80 * labels[:, None, None, None]).astype(np.uint8)
clients = fm.data.from_arrays(images, labels, rng.choice(["Vienna", "Graz"], 60))

model = fm.models.cnn.build(3, widths=(4, 8), groups=2)
gradient = fm.client.cross_entropy(model, num_classes=3)
trainer = fm.LocalTrainer(gradient, optax.adam(0.01), epochs=3, batch_size=8)
algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
simulation = fm.Simulation(fm.Process(algorithm, fm.aggregators.mean.build()))
state = simulation.init(model.init(jax.random.key(0), (16, 16, 3)), clients)
for result in simulation.rounds(state, clients, jax.random.key(1), num_rounds=4):
    print(result.round, result.train_loss)
found = fm.evaluate(model, result.state.server.params, images, labels)
assert found["accuracy"] > 0.8, found["accuracy"]
