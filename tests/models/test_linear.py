import jax
import numpy as np
import toy

from fedjax_med.models import linear

KEY = jax.random.key(0)


def test_untrained_it_knows_nothing():
    model = linear.build(5)
    params = model.init(KEY, toy.IMAGE)
    assert jax.tree.map(np.shape, params) == {"classifier": {"kernel": (48, 5), "bias": (5,)}}
    logits = model.apply(params, jax.random.normal(KEY, (3, *toy.IMAGE)), None)
    np.testing.assert_array_equal(logits, np.zeros((3, 5)))


def test_logits_are_the_pixels_times_the_kernel_plus_the_bias():
    params = {"classifier": {"kernel": np.eye(4, 2), "bias": np.array([10.0, 20.0])}}
    images = np.array([[[[1.0], [2.0]], [[3.0], [4.0]]], [[[5.0], [6.0]], [[7.0], [8.0]]]])
    logits = linear.build(2).apply(params, images, None)
    np.testing.assert_array_equal(logits, [[11.0, 22.0], [15.0, 26.0]])
