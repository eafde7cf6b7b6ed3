"""A federation small enough that a test compiles and runs in a second."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_med.client import augmentation, losses
from fedjax_med.core import client_map
from fedjax_med.core.model import Model
from fedjax_med.core.types import Examples
from fedjax_med.execution import backend
from fedjax_med.experiment.config import Augment
from fedjax_med.experiment.plan import Plan, make_plan
from fedjax_med.experiment.resolve import settle

# What `pytest --map-clients=NAME` asks for, where a test does not choose by itself.
ASKED = os.environ.get("FEDJAX_MED_MAP_CLIENTS", "vmap")
MAP_CLIENTS = client_map.CLIENT_MAPS[backend.choose(ASKED, backend.Workload(0, True)).name]

# Every client map, those of several devices as slow tests: their programs compile longest.
CLIENT_MAPS = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith("sharded") else ())
    for name in client_map.CLIENT_MAPS
]

# Options with which two programs of the same sums give the same bits. Without the fusion emitters,
# which the tests' own flags leave out, a program's fusions decide its roundings.
SAME_BITS = {"xla_cpu_use_fusion_emitters": True} if jax.__version_info__ < (0, 11) else {}

IMAGE = (4, 4, 3)
CLASSES = 3
STILL = Augment(
    flip=False,
    right_angles=False,
    rotation=0.0,
    min_scale=1.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
)


def planned(experiment, counts=(1,) * CLASSES, sizes=(), **options) -> Plan:
    """The plan of a completed experiment."""
    return make_plan(settle(experiment), np.array(counts), sizes, **options)


def model() -> Model:
    """Softmax regression on the pixels."""

    def init(key, image_shape):
        size = int(np.prod(image_shape))
        return {"w": 0.1 * jax.random.normal(key, (size, CLASSES)), "b": jnp.zeros(CLASSES)}

    def apply(params, images, key):
        return (
            images.reshape(images.shape[0], params["w"].shape[0]) @ params["w"] + params["b"][None]
        )

    return Model(init, apply)


def params(seed=0):
    return model().init(jax.random.key(seed), IMAGE)


def grad_fn(changes=STILL, weights=None):
    weights = jnp.ones(CLASSES) if weights is None else weights
    return losses.cross_entropy(model(), augmentation.build(changes), weights)


def features(changes=STILL):
    """The logits of the images that `grad_fn` sees: what a model without features tells."""
    prepare = augmentation.build(changes)

    def of(params, batch, key):
        return model().apply(params, prepare(batch.image, jax.random.split(key)[0]), None)

    return of


def examples(*lead, seed=0, mask=None):
    """Images whose class shows in their brightness."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, lead).astype(np.int32)
    noise = rng.integers(0, 120, (*lead, *IMAGE))
    image = (noise + 60 * label[..., None, None, None]).astype(np.uint8)
    mask = np.ones(lead, bool) if mask is None else np.asarray(mask)
    return Examples(jnp.asarray(image), jnp.asarray(label), jnp.asarray(mask))


def federation(sizes, seed=0, room=None):
    """Clients of the given sizes, stacked and padded to `room`."""
    room = room or max(sizes)
    mask = np.arange(room)[None] < np.array(sizes)[:, None]
    data = examples(len(sizes), room, seed=seed, mask=mask)
    keep = data.mask
    return Examples(
        jnp.where(keep[..., None, None, None], data.image, 0),
        jnp.where(keep, data.label, 0),
        keep,
    )


def pad(data, more):
    """`data` with `more` examples of padding at the end of the last leading axis, full of noise."""
    lead = data.label.ndim - 1
    rng = np.random.default_rng(99)
    shape = (*data.label.shape[:lead], more)
    junk = Examples(
        jnp.asarray(rng.integers(0, 255, (*shape, *IMAGE)).astype(np.uint8)),
        jnp.asarray(rng.integers(0, CLASSES, shape).astype(np.int32)),
        jnp.zeros(shape, bool),
    )
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=lead), data, junk)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected
    )


def assert_same_bits(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
