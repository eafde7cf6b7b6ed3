import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fedjax_med import ops

NUMBERS = ("NHWC", "HWIO", "NHWC")


def native(image, kernel, strides, padding):
    return lax.conv_general_dilated(image, kernel, strides, padding, dimension_numbers=NUMBERS)


def both(image, kernel, strides, padding):
    ours = lambda x, k: ops.conv_general_dilated(  # noqa: E731
        x, k, strides, padding, dimension_numbers=NUMBERS
    )
    theirs = lambda x, k: native(x, k, strides, padding)  # noqa: E731
    return ours, theirs


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (0, 2))]),
)
def test_convolution_agrees_with_lax_in_value_and_gradient(size, window, strides, padding):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, 3, 4)), jnp.float32)
    ours, theirs = both(image, kernel, strides, padding)
    np.testing.assert_allclose(ours(image, kernel), theirs(image, kernel), rtol=1e-4, atol=1e-4)
    gradients = [
        jax.grad(lambda x, k, f=f: jnp.sum(jnp.sin(f(x, k))), (0, 1))(image, kernel)
        for f in (ours, theirs)
    ]
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_convolution_agrees_with_lax_under_vmap_over_kernels():
    rng = np.random.default_rng(1)
    images = jnp.asarray(rng.normal(size=(3, 2, 5, 5, 2)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(3, 3, 3, 2, 4)), jnp.float32)
    ours, theirs = both(images, kernels, (1, 1), "SAME")
    expected = jnp.stack([theirs(images[i], kernels[i]) for i in range(3)])
    np.testing.assert_allclose(jax.vmap(ours)(images, kernels), expected, rtol=1e-4, atol=1e-4)


def test_grouped_and_dilated_convolutions_are_those_of_lax():
    image, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 2, 4))
    for options in ({"feature_group_count": 2}, {"feature_group_count": 2, "rhs_dilation": (2, 2)}):
        arguments = (image, kernel, (1, 1), "VALID")
        expected = lax.conv_general_dilated(*arguments, dimension_numbers=NUMBERS, **options)
        actual = ops.conv_general_dilated(*arguments, dimension_numbers=NUMBERS, **options)
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("size", [4, 5])
def test_max_pool_takes_each_square_and_cuts_the_rest(size):
    image = jnp.arange(size * size, dtype=jnp.float32).reshape(1, size, size, 1)
    expected = {4: [[5, 7], [13, 15]], 5: [[6, 8], [16, 18]]}[size]
    np.testing.assert_array_equal(ops.max_pool(image, 2)[0, :, :, 0], expected)
