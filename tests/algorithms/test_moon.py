"""MOON (Li, He, Song, CVPR 2021)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg, moon
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Spec
from fedjax_med.models import cnn, efficientnet_lite0

KEY = jax.random.key(5)
DATA = toy.federation((6, 3, 4))
MASK = np.array([True, False, True, True])


def training(**changes):
    return LocalTrainer(toy.grad_fn(), optax.sgd(0.1), 1, 4, features=toy.features())._replace(
        **changes
    )


@functools.cache
def rounds(number, name="moon", **options):
    """The states after each of `number` rounds."""
    algorithm = components.build("algorithms", Spec(name, options), training(), optax.sgd(1.0))
    aggregator = mean.build()
    states = [Process(algorithm, aggregator).init(toy.params(), DATA)]
    step = jax.jit(Process(algorithm, aggregator).round)
    for _ in range(number):
        states.append(step(states[-1], DATA, KEY)[0])
    return states


def views(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(4, 5)).astype(np.float32) for _ in range(3)]


def in_numpy(own, shared, previous, temperature):
    """The paper's formula, example by example."""

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    losses = []
    for index in np.flatnonzero(MASK):
        near = np.exp(cosine(own[index], shared[index]) / temperature)
        far = np.exp(cosine(own[index], previous[index]) / temperature)
        losses.append(-np.log(near / (near + far)))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_contrastive_loss_is_the_papers(temperature):
    actual = moon.contrastive(moon.Views(*map(jnp.asarray, views())), MASK, temperature)
    np.testing.assert_allclose(actual, in_numpy(*views(), temperature), rtol=1e-5)


def test_contrastive_loss_and_its_gradient_ignore_padding_whatever_it_holds():
    def loss(own, others):
        return moon.contrastive(moon.Views(own, *others), MASK, 0.5)

    own, *others = map(jnp.asarray, views())
    expected = jax.value_and_grad(loss)(own, others)
    for junk in (jnp.nan, 7.0, 0.0):
        spoiled = [view.at[1].set(junk) for view in (own, *others)]
        toy.assert_close(jax.value_and_grad(loss)(spoiled[0], spoiled[1:]), expected)
    assert not np.asarray(expected[1][1]).any()


def test_features_of_zeros_have_a_finite_gradient():
    own, shared, previous = map(jnp.asarray, views())

    def loss(own):
        return moon.contrastive(moon.Views(own, shared, previous), MASK, 0.5)

    assert np.isfinite(jax.grad(loss)(jnp.zeros_like(own))).all()


def test_mu_of_zero_is_fed_avg_bit_for_bit():
    for one, other in zip(rounds(3, mu=0.0), rounds(3, "fed_avg"), strict=True):
        toy.assert_same_bits(one.server, other.server)


def test_client_keeps_the_model_that_it_trained():
    before, after = rounds(3, mu=2.0)[-2:]
    weight = jnp.array([6.0, 3.0, 4.0]) / 13
    mean_model = jnp.einsum("c,c...->...", weight, after.clients["w"])
    np.testing.assert_allclose(after.server.params["w"], mean_model, rtol=1e-4, atol=1e-6)
    assert not np.allclose(before.clients["w"], after.clients["w"])
    start = rounds(3, mu=2.0)[0]
    np.testing.assert_array_equal(start.clients["w"][1], toy.params()["w"])


def test_first_round_is_fed_avgs_since_global_and_previous_model_are_the_same():
    first, plain = rounds(3, mu=2.0)[1], rounds(3, "fed_avg")[1]
    toy.assert_close(first.server.params, plain.server.params, rtol=1e-4)
    later, plain = rounds(3, mu=2.0)[3], rounds(3, "fed_avg")[3]
    assert abs(later.server.params["w"] - plain.server.params["w"]).max() > 1e-4


def test_step_adds_mu_times_the_gradient_of_the_contrastive_loss():
    one = jax.tree.map(lambda leaf: leaf[0], DATA)
    base = training(batch_size=0)
    shared, previous = toy.params(0), toy.params(1)
    server = fed_avg.build(base, optax.sgd(1.0)).init(shared)[0]
    deltas = []
    for mu in (0.0, 1.5):
        algorithm = moon.build(base, optax.sgd(1.0), mu=mu, temperature=0.7)
        result = algorithm.client_update(server, previous, one, jnp.int32(0), KEY)
        deltas.append(result.update)

    def loss(params):
        own, far = (base.features(part, one, KEY) for part in (params, previous))
        near = base.features(shared, one, KEY)
        return moon.contrastive(moon.Views(own, near, far), one.mask, 0.7)

    # From the global model, in one step of rate 0.1.
    expected = jax.tree.map(lambda leaf: 0.1 * 1.5 * leaf, jax.grad(loss)(shared))
    toy.assert_close(jax.tree.map(jnp.subtract, *deltas[::-1]), expected, rtol=1e-3)
    assert abs(expected["w"]).max() > 1e-3


def test_features_move_to_the_global_models_and_away_from_the_previous_ones():
    one = jax.tree.map(lambda leaf: leaf[0], DATA)
    still = training(
        grad_fn=lambda params, batch, key: (
            jax.tree.map(jnp.zeros_like, params),
            toy.grad_fn()(params, batch, key)[1],
        ),
        epochs=10,
    )
    shared, previous = toy.params(0), toy.params(1)
    server = fed_avg.build(still, optax.sgd(1.0)).init(shared)[0]
    algorithm = moon.build(still, optax.sgd(1.0))
    state = algorithm.client_update(server, previous, one, jnp.int32(0), KEY).state

    def loss(params):
        parts = [still.features(part, one, KEY) for part in (params, shared, previous)]
        return moon.contrastive(moon.Views(*parts), one.mask, 0.5)

    assert loss(state) < loss(shared) - 0.01


@pytest.mark.parametrize(
    ("model", "side", "width"),
    [
        (cnn.build(3, widths=(4, 8), groups=2, dropout=0.5), 8, 8),
        (efficientnet_lite0.build(3, frozen_blocks=15), 2, 1280),
    ],
    ids=["cnn", "efficientnet_lite0"],
)
def test_features_are_what_the_classifier_sees(model, side, width):
    channels = 3 if model.frozen is None else 192
    params = model.init(KEY, (side, side, channels))
    images = jax.random.normal(KEY, (2, side, side, channels))
    for key in (None, jax.random.key(3)):
        features = model.features(params, images, key)
        assert features.shape == (2, width)
        layer = params["classifier"]
        logits = features @ layer["kernel"] + layer["bias"][None]
        toy.assert_close(model.apply(params, images, key), logits, rtol=1e-4, atol=1e-5)


def test_frozen_part_tells_no_features():
    assert efficientnet_lite0.build(3, frozen_blocks=2).frozen.features is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"mu": -1.0}, "mu >= 0"), ({"temperature": 0.0}, "temperature > 0")],
)
def test_option_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        moon.build(training(), optax.sgd(1.0), **options)


def test_model_without_features_is_refused():
    with pytest.raises(UserError, match="features"):
        moon.build(training(features=None), optax.sgd(1.0))
