import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fedjax_med import ops
from fedjax_med.core import client_map

NUMBERS = ("NHWC", "HWIO", "NHWC")


def images_and_kernel(size, window, channels, features, groups=1):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, *size, channels)), jnp.float32)
    shape = (*window, channels // groups, features)
    return image, jnp.asarray(rng.normal(size=shape), jnp.float32)


def both(strides, padding, groups=1):
    """Our convolution and that of XLA."""
    options = {"dimension_numbers": NUMBERS, "feature_group_count": groups}
    return [
        lambda x, k, f=f: f(x, k, strides, padding, **options)
        for f in (ops.conv_general_dilated, lax.conv_general_dilated)
    ]


def native_conv_max_pool(image, kernel):
    full = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)
    window = (1, 2, 2, 1)
    return lax.reduce_window(full, -jnp.inf, lax.max, window, window, "VALID")


def assert_agree(ours, theirs, *arguments):
    """In value and in the gradient of every argument."""
    weights = jax.eval_shape(theirs, *arguments).shape
    weights = jnp.asarray(np.random.default_rng(1).normal(size=weights), jnp.float32)
    places = tuple(range(len(arguments)))

    def both(*arguments):  # at once: compiling takes longer than computing
        def total(function):
            def of(*arguments):
                value = function(*arguments)
                return jnp.sum(jnp.sin(value) * weights), value

            return jax.grad(of, places, has_aux=True)(*arguments)

        return total(ours), total(theirs)

    (gradients, actual), (right, expected) = jax.jit(both)(*arguments)
    scale = float(np.max(np.abs(expected))) + 1
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5 * scale)
    for actual, expected in zip(gradients, right, strict=True):
        scale = float(np.max(np.abs(expected))) + 1
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=3e-5 * scale)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    window=st.sampled_from([(1, 1), (2, 3), (3, 1), (3, 3), (3, 3)]),
    strides=st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2)]),
    padding=st.sampled_from(["SAME", "SAME", "VALID", ((1, 0), (0, 2)), ((1, -1), (0, 0))]),
    channels=st.sampled_from([(3, 4), (8, 9), (9, 8), (8, 2)]),
)
def test_convolution_agrees_with_lax_in_value_and_gradient(
    size, window, strides, padding, channels
):
    assert_agree(*both(strides, padding), *images_and_kernel(size, window, *channels))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    window=st.sampled_from([(3, 3), (5, 5), (2, 3)]),
    strides=st.sampled_from([(1, 1), (2, 2), (1, 2)]),
    padding=st.sampled_from(["SAME", "VALID", ((1, 0), (0, 2))]),
)
def test_depthwise_convolution_agrees_with_lax_in_value_and_gradient(
    size, window, strides, padding
):
    arguments = images_and_kernel(size, window, 4, 4, groups=4)
    assert_agree(*both(strides, padding, groups=4), *arguments)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    window=st.sampled_from([(3, 3), (3, 3), (3, 3), (5, 2)]),
    channels=st.sampled_from([(3, 4), (8, 9), (9, 8), (8, 2)]),
)
def test_convolution_with_pooling_agrees_with_lax_in_value_and_gradient(size, window, channels):
    arguments = images_and_kernel(size, window, *channels)
    assert_agree(ops.conv_max_pool, native_conv_max_pool, *arguments)


def test_pooling_gives_the_gradient_to_the_first_of_equals_as_lax_does():
    image = jnp.ones((1, 6, 6, 8))  # inside the border, all outputs are the same
    kernel = jnp.ones((3, 3, 8, 8))
    assert_agree(ops.conv_max_pool, native_conv_max_pool, image, kernel)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    shape=st.sampled_from([(4, 1), (4, 2), (6, 3), (4, 4)]),
)
def test_group_norm_agrees_with_flax_in_value_and_gradient(size, shape):
    channels, groups = shape
    rng = np.random.default_rng(2)
    image = jnp.asarray(rng.normal(3.0, 2.0, size=(2, *size, channels)), jnp.float32)
    scale, bias = jnp.asarray(rng.normal(size=(2, channels)), jnp.float32)

    def theirs(image, scale, bias):
        module = nnx.GroupNorm(channels, num_groups=groups, epsilon=1e-3, rngs=nnx.Rngs(0))
        module.scale[...], module.bias[...] = scale, bias
        return module(image)

    def ours(image, scale, bias):
        return ops.group_norm(image, scale, bias, groups, 1e-3)

    assert_agree(ours, theirs, image, scale, bias)


def test_group_norm_of_one_colour_is_the_bias():
    image = jnp.full((1, 4, 4, 2), 0.1)
    out = ops.group_norm(image, jnp.ones(2), jnp.array([3.0, 4.0]), 2, 1e-6)
    np.testing.assert_allclose(out[0, 0, 0], [3.0, 4.0], atol=1e-2)


def native_max_pool(image):
    window = (1, 2, 2, 1)
    return lax.reduce_window(image, -jnp.inf, lax.max, window, window, "VALID")


def ours_after_a_product(image, kernel):
    """Group normalisation of what depends on a client's own kernel, which is its scale too."""
    image = image * jnp.mean(kernel)
    return ops.group_norm(image, kernel[0, 0, 0], kernel[0, 0, 1], 4, 1e-3)


def theirs_after_a_product(image, kernel):
    image = image * jnp.mean(kernel)
    module = nnx.GroupNorm(image.shape[-1], num_groups=4, epsilon=1e-3, rngs=nnx.Rngs(0))
    module.scale[...], module.bias[...] = kernel[0, 0, 0], kernel[0, 0, 1]
    return module(image)


def pooled(pool):
    """Maxima of what depends on a client's own kernel."""
    return lambda image, kernel: pool(image * jnp.mean(kernel))


OPERATIONS = {
    "winograd": (both((1, 1), "SAME"), (8, 8, 1)),
    "patches": (both((2, 2), "SAME"), (3, 4, 1)),
    "depthwise": (both((1, 1), "SAME", groups=4), (4, 4, 4)),
    "pooling": ((ops.conv_max_pool, native_conv_max_pool), (8, 8, 1)),
    "pooling, few channels": ((ops.conv_max_pool, native_conv_max_pool), (3, 8, 1)),
    "group norm": ((ours_after_a_product, theirs_after_a_product), (8, 8, 1)),
    "maxima": ((pooled(lambda x: ops.max_pool(x, 2)), pooled(native_max_pool)), (8, 8, 1)),
}


def value_and_gradients(function):
    """From image and kernel to the value and the gradients of a sum over it."""

    def loss(image, kernel):
        value = function(image, kernel)
        return jnp.sum(jnp.sin(value)), value

    def found(image, kernel):
        gradients, value = jax.grad(loss, (0, 1), has_aux=True)(image, kernel)
        return value, *gradients

    return found


def over_clients(function):
    """A loop over kernels, with one image."""

    def loop(image, kernels):
        step = lambda carry, kernel: (carry, function(image, kernel))  # noqa: E731
        return lax.scan(step, 0, kernels)[1]

    return loop


def kernels_of_clients(kernel):
    return kernel[None] * jnp.arange(1.0, 6)[:, None, None, None, None]


def assert_all_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        scale = float(jnp.max(jnp.abs(jnp.stack(other))))
        np.testing.assert_allclose(one, jnp.stack(other), rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("strategy", ["loop", *client_map.CLIENT_MAPS])
def test_lowerings_agree_with_lax_inside_every_transformation(name, strategy):
    """Values and gradients with clients' own kernels: under vmap, loops over clients, devices."""
    (ours, theirs), shape = OPERATIONS[name]
    image, kernel = images_and_kernel((6, 6), (3, 3), *shape)
    kernels = kernels_of_clients(kernel)
    found = value_and_gradients(ours)
    mapped = (
        over_clients(found)
        if strategy == "loop"
        else client_map.CLIENT_MAPS[strategy](found, in_axes=(None, 0))
    )
    jitted = jax.jit(mapped, compiler_options=ops.compiler_options())
    each = [value_and_gradients(theirs)(image, one) for one in kernels]
    assert_all_close(jitted(image, kernels), zip(*each, strict=True))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("side", [2, 40])
def test_lowerings_agree_with_lax_in_loops_over_few_bytes_and_over_many(name, side):
    """XLA compiles a loop over a few bytes in another way: with and without gradients."""
    (ours, theirs), shape = OPERATIONS[name]
    image, kernel = images_and_kernel((side, side), (3, 3), *shape)
    kernels = kernels_of_clients(kernel)

    def both(image, kernels):
        values, gradients = over_clients(ours), over_clients(value_and_gradients(ours))
        return values(image, kernels), *gradients(image, kernels)

    jitted = jax.jit(both, compiler_options=ops.compiler_options())
    each = [value_and_gradients(theirs)(image, one) for one in kernels]
    value, *gradients = zip(*each, strict=True)
    assert_all_close(jitted(image, kernels), [value, value, *gradients])


@pytest.mark.parametrize("size", [1, 10, 100, 1000, 10_000, 100_000])
def test_barriers_compile_in_loops_of_every_size(size):
    def steps(x):
        step = lambda x, _: (lax.optimization_barrier(jnp.sin(x)) * 2, None)  # noqa: E731
        return lax.scan(step, x, None, length=3)[0]

    x = jnp.ones(size)
    found = jax.jit(steps, compiler_options=ops.compiler_options())(x)
    np.testing.assert_allclose(found, jax.jit(steps)(x), rtol=1e-6)


def test_what_a_barrier_keeps_is_computed_once_for_all_its_readers():
    def readers(x):
        kept = lax.optimization_barrier(jnp.sin(x))
        return [kept[place:] * place for place in range(1, 5)]

    lowered = jax.jit(readers, compiler_options=ops.compiler_options()).lower(jnp.ones(1000))
    assert lowered.compile().as_text().count(" sine(") == 1


def test_grouped_and_dilated_convolutions_are_those_of_lax():
    image, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 2, 4))
    for options in ({"feature_group_count": 2}, {"feature_group_count": 2, "rhs_dilation": (2, 2)}):
        arguments = (image, kernel, (1, 1), "VALID")
        expected = lax.conv_general_dilated(*arguments, dimension_numbers=NUMBERS, **options)
        actual = ops.conv_general_dilated(*arguments, dimension_numbers=NUMBERS, **options)
        np.testing.assert_array_equal(actual, expected)


def test_channels_first_is_left_to_lax():
    image, kernel = jnp.ones((1, 4, 6, 6)), jnp.ones((2, 4, 3, 3))
    numbers = ("NCHW", "OIHW", "NCHW")
    actual = ops.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    assert actual.shape == (1, 2, 6, 6)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("size", [4, 5])
def test_max_pool_takes_each_square_and_cuts_the_rest(monkeypatch, platform, size):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    image = jnp.arange(size * size, dtype=jnp.float32).reshape(1, size, size, 1)
    expected = {4: [[5, 7], [13, 15]], 5: [[6, 8], [16, 18]]}[size]
    np.testing.assert_array_equal(ops.max_pool(image, 2)[0, :, :, 0], expected)
    ties = jnp.round(image / 5)
    assert_agree(lambda image: ops.max_pool(image, 2), native_max_pool, ties)
    assert jnp.isnan(ops.max_pool(image.at[0, 0, 1].set(jnp.nan), 2)[0, 0, 0, 0])


@pytest.mark.parametrize("name", OPERATIONS)
def test_forms_for_accelerators_agree_with_lax_too(monkeypatch, name):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    (ours, theirs), shape = OPERATIONS[name]
    assert_agree(ours, theirs, *images_and_kernel((6, 5), (3, 3), *shape))
    assert ops.micro_batch() == 0
    assert ops.compiler_options() == {}
