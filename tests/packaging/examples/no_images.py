"""Linear regression on a tree of measurements, with a loss of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjax_med as fm

rng = np.random.default_rng(0)
inputs = {"dose": rng.normal(size=(60, 2)), "age": rng.normal(size=60)}
target = inputs["dose"] @ np.array([1.0, -2.0]) + 3 * inputs["age"]
clients = fm.data.from_arrays(inputs, target, np.arange(60) % 4)


def loss(params, inputs, target, key):
    return (inputs["dose"] @ params["dose"] + inputs["age"] * params["age"] - target) ** 2


trainer = fm.LocalTrainer(fm.client.mean_gradient(loss), optax.sgd(0.05), epochs=2, batch_size=4)
algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
simulation = fm.Simulation(fm.Process(algorithm, fm.aggregators.mean.build()))
state = simulation.init({"dose": jnp.zeros(2), "age": jnp.zeros(())}, clients)
*_, last = simulation.rounds(state, clients, jax.random.key(1), num_rounds=10)
np.testing.assert_allclose(last.state.server.params["dose"], [1, -2], atol=0.05)
