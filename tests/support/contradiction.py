"""What tests of personal models share: clients that contradict each other, and a second layer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import toy

from fedjax_med.aggregators import mean
from fedjax_med.client import augmentation, losses
from fedjax_med.core.faults import Faults, Participation
from fedjax_med.core.model import IMAGENET_MEAN, IMAGENET_STD, Model
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch

KEY = jax.random.key(5)


def data(sizes=(12, 12, 12), seed=0):
    """All have the same images and call their classes by other numbers: no model suits two."""
    one = toy.examples(max(sizes), seed=seed)
    shift = jnp.arange(len(sizes), dtype=jnp.int32)[:, None]
    image, label = (jnp.stack([leaf] * len(sizes)) for leaf in one[:2])
    mask = jnp.arange(max(sizes))[None] < jnp.array(sizes)[:, None]
    return one._replace(image=image, label=(label + shift) % toy.CLASSES, mask=mask)


def model():
    """A body of four features under a classifier."""

    def init(key, image_shape):
        size = int(np.prod(image_shape))
        kernels = [0.1 * jax.random.normal(key, shape) for shape in ((size, 4), (4, toy.CLASSES))]
        head = {"kernel": kernels[1], "bias": jnp.zeros(toy.CLASSES)}
        return {"body": {"kernel": kernels[0]}, "classifier": head}

    def apply(params, images, key):
        features = jnp.tanh(images.reshape(images.shape[0], -1) @ params["body"]["kernel"])
        head = params["classifier"]
        return features @ head["kernel"] + head["bias"][None]

    return Model(init, apply)


def params():
    return model().init(jax.random.key(0), toy.IMAGE)


def grad_fn():
    return losses.cross_entropy(model(), augmentation.build(toy.STILL), jnp.ones(toy.CLASSES))


def rounds(algorithm, data, number=3, start=None, faults=None, ids=None):
    """The state and the metrics after each of `number` rounds, the state before them first."""
    process = Process(algorithm, mean.build(), faults=faults or Faults())
    state = process.init(toy.params() if start is None else start, data)
    step = jax.jit(process.round, compiler_options=toy.SAME_BITS)
    history = [(state, {})]
    for _ in range(number):
        history.append(step(history[-1][0], RoundBatch(data, ids=ids), KEY))
    return history


def client(tree, number):
    return jax.tree.map(lambda leaf: leaf[number], tree)


def personal(algorithm, state, number):
    return algorithm.personal_params(state.server, client(state.clients, number))


def correct(gradient, params_of, data):
    """The share of all clients' examples that ``params_of(client)`` gets right."""
    clients = range(data.label.shape[0])
    count = jax.jit(lambda params, examples: gradient(params, examples, KEY)[1])
    sums = [count(params_of(k), client(data, k)) for k in clients]
    return sum(float(one["correct"]) for one in sums) / sum(float(one["count"]) for one in sums)


def check_absent_clients_keep_what_they_have(algorithm, data, start=None):
    """Whose message does not count leaves the state as it was; all others' changes."""
    faults = Faults(Participation(participation_rate=0.6, straggler_rate=0.2))
    seen = set()
    history = rounds(algorithm, data, 4, start, faults)
    for (before, _), (after, metrics) in itertools.pairwise(history):
        for number, counted in enumerate(metrics["counted"].tolist()):
            pair = [jax.tree.leaves(client(one.clients, number)) for one in (before, after)]
            changed = any((old != new).any() for old, new in zip(*pair, strict=True))
            assert changed == counted
            seen.add(counted)
    assert seen == {True, False}


# --- softmax regression in NumPy ----------------------------------------------------------------


def numbers(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def gradient(params, examples):
    """That of the mean loss of `toy.model` over one client's examples, all at once."""
    real = np.asarray(examples.mask)
    image = np.asarray(examples.image, np.float64)[real] / 255
    image = ((image - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)).reshape(real.sum(), -1)
    logits = image @ params["w"] + params["b"]
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    off = (share - np.eye(toy.CLASSES)[np.asarray(examples.label)[real]]) / real.sum()
    return {"w": image.T @ off, "b": off.sum(0)}


def move(params, direction, rate, names="wb"):
    return {n: params[n] - rate * direction[n] if n in names else params[n] for n in "wb"}


def mean_of(models, sizes):
    return {n: sum(s * m[n] for s, m in zip(sizes, models, strict=True)) / sum(sizes) for n in "wb"}
