"""Predictions of each site's images with statistics of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_med.core.model import Model, Statistics
from fedjax_med.data.dataset import Split
from fedjax_med.run.evaluate import _predict_at_sites

COUNT = 9


def _mean_of(params, examples):
    real = jnp.where(examples.mask[:, None, None, None], examples.image, 0)
    return {"sum": jnp.sum(real) / (255 * 12), "count": jnp.sum(examples.mask)}


def _apply(params, images, key):
    above = 20 * (jnp.mean(images, axis=(1, 2, 3)) - params["mean"])
    return jnp.stack([-above, above], axis=1)


MODEL = Model(
    lambda key, shape: {"mean": jnp.zeros(())},
    _apply,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    statistics=(
        Statistics(
            _mean_of,
            lambda params, total: {"mean": jnp.float32(total["sum"] / total["count"])},
        ),
    ),
    fixed=("mean",),
    own_statistics=1.0,
)


def test_each_sites_images_are_predicted_by_what_is_usual_there():
    """Bright and dark images of three sites whose light differs more than the classes do."""
    client = np.array([1, -1, 0, 1, 0, -1, 0, 1, -1], np.int32)
    bright = np.array([0, 1, 1, 1, 0, 0, 1, 0, 1])
    light = {-1: 200, 0: 100, 1: 20}
    values = np.array([light[c] + 20 * b for c, b in zip(client.tolist(), bright, strict=True)])
    images = np.broadcast_to(values[:, None, None, None], (COUNT, 2, 2, 3)).astype(np.uint8)
    names = np.array([f"{number}.jpg" for number in range(COUNT)])
    split = Split(images, np.zeros(COUNT, np.int32), names, names, np.zeros((COUNT, 32)), client)
    found = _predict_at_sites(MODEL, {"mean": jnp.float32(0.4)}, split, 1)
    np.testing.assert_array_equal(found.argmax(axis=1), bright)
    for site in (-1, 0, 1):
        there = client == site
        above = 20 * (values[there] - values[there].mean()) / 255
        expected = jax.nn.softmax(jnp.stack([-above, above], axis=1))
        np.testing.assert_allclose(found[there], expected, rtol=1e-4)
