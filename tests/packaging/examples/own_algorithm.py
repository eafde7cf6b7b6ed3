"""An algorithm of one's own: FedSGD, whose clients send one gradient each round."""

from typing import Any, NamedTuple

import jax
import numpy as np

import fedjax_med as fm


class Server(NamedTuple):
    params: Any


def client_update(server, client, examples, round, key):
    update, metrics = gradient(server.params, examples, key)
    return fm.ClientOutput(update, client, examples.mask.sum(dtype=np.float32), metrics)


def server_update(server, message):
    return Server(jax.tree.map(lambda leaf, step: leaf - 0.05 * step, server.params, message))


labels = np.arange(30) % 3
images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8)
clients = fm.data.from_arrays(images, labels, np.arange(30) // 10)
model = fm.models.linear.build(3)
gradient = fm.client.cross_entropy(model, num_classes=3)
algorithm = fm.FederatedAlgorithm(lambda params: (Server(params), ()), client_update, server_update)
simulation = fm.Simulation(fm.Process(algorithm, fm.aggregators.mean.build()))
state = simulation.init(model.init(jax.random.key(0), (8, 8, 3)), clients)
first, *_, last = simulation.rounds(state, clients, jax.random.key(1), num_rounds=4)
assert last.train_loss < first.train_loss
