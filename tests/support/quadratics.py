"""Clients whose losses are parabolas: what they should agree on is known on paper.

Client k has `sizes[k]` examples, all of the loss ``curvatures[k] / 2 * (w - targets[k])^2``, so
that every batch of it has the same gradient.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_med.aggregators import mean
from fedjax_med.core.faults import Faults
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch
from fedjax_med.core.types import Examples

KEY = jax.random.key(6)
UNIT = 100  # images hold integers: the curvature is the pixel's hundredth


def start():
    return {"w": jnp.full((1,), 1.5)}


def grad_fn(params, batch, key):
    del key
    curvature = batch.image[:, 0, 0, 0].astype(jnp.float32) / UNIT
    away = params["w"] - batch.label.astype(jnp.float32)
    count = jnp.sum(batch.mask, dtype=jnp.float32)
    gradient = jnp.sum(curvature * away, where=batch.mask) / jnp.maximum(count, 1)
    loss = jnp.sum(curvature * away**2 / 2, where=batch.mask)
    metrics = {"loss": loss, "correct": jnp.zeros_like(loss), "count": count}
    return {"w": gradient[None]}, metrics


def clients(sizes, curvatures, targets):
    number, room = len(sizes), max(sizes)
    mask = np.arange(room)[None] < np.array(sizes)[:, None]
    pixel = np.where(mask, np.round(UNIT * np.array(curvatures))[:, None], 255)
    label = np.where(mask, np.array(targets)[:, None], 99)
    return Examples(
        jnp.asarray(pixel.reshape(number, room, 1, 1, 1), jnp.uint8),
        jnp.asarray(label, jnp.int32),
        jnp.asarray(mask),
    )


def optimum(sizes, curvatures, targets):
    """Where the mean loss over all examples is least."""
    share = np.array(sizes) * np.array(curvatures)
    return float(np.sum(share * np.array(targets)) / np.sum(share))


def fed_avg_rests(sizes, curvatures, targets, steps, rate):
    """Where FedAvg comes to rest: after `steps` a client has gone this part of its way."""
    gone = 1 - (1 - rate * np.array(curvatures)) ** np.array(steps)
    share = np.array(sizes) * gone
    return float(np.sum(share * np.array(targets)) / np.sum(share))


def rounds(algorithm, data, number, places=None, faults=None, aggregator=None):
    """The states after each round.

    `places` says for every round who takes part, all times the same number of clients.
    """
    process = Process(algorithm, aggregator or mean.build(), faults=faults or Faults())
    state = process.init(start(), data)

    @functools.partial(jax.jit, static_argnames="everyone")
    def step(state, there, everyone):
        mine = jax.tree.map(lambda leaf: leaf[there], data)
        return process.round(state, data if everyone else RoundBatch(mine, (there,)), KEY)

    states, counts = [], []
    for number_ in range(number):
        there = None if places is None else jnp.asarray(places[number_], jnp.int32)
        state, metrics = step(state, there, places is None)
        states.append(state)
        counts.append(metrics["weight"])
    return states, counts


def w(state):
    return float(state.server.params["w"][0])
