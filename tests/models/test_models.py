import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_med.models import cnn, from_nnx

KEY = jax.random.key(0)
SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def small():
    model = cnn.build(4, widths=(8, 16), groups=4, dropout=0.5)
    return model, model.init(KEY, SHAPE)


def images(batch=3, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, *SHAPE)), jnp.float32)


def test_cnn_has_the_parameters_that_its_widths_say(small):
    _, params = small
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes["block_0"]["convolution"]["kernel"] == (3, 3, 3, 8)
    assert shapes["block_1"]["convolution"]["kernel"] == (3, 3, 8, 16)
    assert shapes["classifier"] == {"kernel": (16, 4), "bias": (4,)}
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 216 + 16 + 1152 + 32 + 68


def test_parameters_are_plain_dictionaries_of_arrays(small):
    _, params = small
    assert type(params) is dict
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_examples_do_not_influence_each_other(small):
    model, params = small
    together = model.apply(params, images(), None)
    alone = jnp.concatenate([model.apply(params, images()[i : i + 1], None) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_dropout_acts_with_a_key_only(small):
    model, params = small
    still = model.apply(params, images(), None)
    np.testing.assert_array_equal(still, model.apply(params, images(), None))
    first, second = (model.apply(params, images(), jax.random.key(i)) for i in (1, 2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, model.apply(params, images(), jax.random.key(1)))


def test_other_key_other_parameters(small):
    model, params = small
    other = model.init(jax.random.key(1), SHAPE)
    assert not np.array_equal(params["classifier"]["kernel"], other["classifier"]["kernel"])


def test_gradient_reaches_every_parameter(small):
    model, params = small
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(p, images(), None))))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_wrapped_module_is_the_module():
    def make(channels, rngs):
        class Module(nnx.Module):
            def __init__(self):
                self.linear = nnx.Linear(channels, 2, rngs=rngs)

            def __call__(self, images, *, rngs):
                return self.linear(images.mean((1, 2)))

        return Module()

    model = from_nnx(make)
    params = model.init(KEY, SHAPE)
    expected = images().mean((1, 2)) @ params["linear"]["kernel"]
    np.testing.assert_allclose(model.apply(params, images(), None), expected, rtol=1e-5, atol=1e-6)
