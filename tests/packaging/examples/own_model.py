"""Train two models of one's own: a flax.nnx module, and a pair of functions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fedjax_med as fm

labels = np.arange(30) % 3
images = np.full((30, 8, 8, 3), 80, np.uint8) * labels[:, None, None, None].astype(np.uint8)
clients = fm.data.from_arrays(images, labels, np.arange(30) // 10)
module = fm.models.from_nnx(lambda channels, rngs: nnx.Linear(channels, 3, rngs=rngs))
mean_colour = module._replace(apply=lambda p, x, key: module.apply(p, x.mean((1, 2)), key))
pair = fm.Model(lambda key, shape: {"w": jnp.zeros((3, 3))}, lambda p, x, key: x[:, 0, 0] @ p["w"])

for model in (mean_colour, pair):
    trainer = fm.LocalTrainer(fm.client.cross_entropy(model, num_classes=3), optax.sgd(0.1))
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    simulation = fm.Simulation(fm.Process(algorithm, fm.aggregators.mean.build()))
    state = simulation.init(model.init(jax.random.key(0), (8, 8, 3)), clients)
    first, *_, last = simulation.rounds(state, clients, jax.random.key(1), num_rounds=3)
    assert last.train_loss < first.train_loss
