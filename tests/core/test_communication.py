"""The bytes of a client's message, counted by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.algorithms import _ema, fed_avg, fed_dyn
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.client.optimizers import sgd_step_weight
from fedjax_med.core import aggregation, communication
from fedjax_med.core.communication import Traffic
from fedjax_med.core.payload import Payload, uncompressed
from fedjax_med.transforms import (
    adaptive_clip,
    clip,
    low_precision,
    quantize,
    random_k,
    top_k,
)

# The toy model has 48 * 3 + 3 = 147 values in two leaves, float32; a position takes 8 bits.
PLAIN = 147 * 4
FORGETFUL = top_k.build(error_feedback=False)


def traffic(*transforms, algorithm=None):
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), step_weight=sgd_step_weight())
    algorithm = algorithm or fed_avg.build(training, optax.sgd(1.0))
    server, client = algorithm.init(toy.params())
    return communication.traffic(algorithm, transforms, server, client, toy.federation((4, 2)))


def test_plain_message_goes_up_and_down_in_float32():
    assert traffic() == Traffic(PLAIN, PLAIN, PLAIN)
    assert traffic(clip.build(), adaptive_clip.build()) == Traffic(PLAIN, PLAIN, PLAIN)


@pytest.mark.parametrize(
    ("transforms", "bits"),
    [
        ([top_k.build(share=1.0)], 147 * 32),
        ([random_k.build(share=1.0)], 147 * 32),
        ([quantize.build(bits=32, rotate=True)], 147 * 32),
        ([top_k.build(share=0.1)], 15 * (32 + 8)),
        ([top_k.build(share=0.001)], 32 + 8),
        # From 19 places of 8 bits on it is cheaper to say for each value whether it is sent.
        ([top_k.build(share=0.12)], 18 * (32 + 8)),
        ([top_k.build(share=0.13)], 19 * 32 + 147),
        ([top_k.build(share=0.5)], 74 * 32 + 147),
        ([random_k.build(share=0.1)], 15 * 32 + 64),
        ([quantize.build(bits=3)], 147 * 3 + 2 * 64),
        ([quantize.build(bits=3, rotate=True)], (256 + 4) * 3 + 2 * 64 + 64),
        ([low_precision.build()], 147 * 16),
        ([low_precision.build(), low_precision.build(kind="float16")], 147 * 16),
        ([low_precision.build(), quantize.build(bits=5)], 147 * 5 + 2 * 64),
        ([quantize.build(bits=5), low_precision.build()], 147 * 5 + 2 * 64),
        ([clip.build(), top_k.build(), low_precision.build()], 15 * (16 + 8)),
        ([top_k.build(), quantize.build(bits=4, sparse=True)], 15 * (4 + 8) + 2 * 64),
        ([random_k.build(), quantize.build(bits=4, sparse=True)], 15 * 4 + 64 + 2 * 64),
        # Rounded and rotated zeros are sent as well, and then the positions need not be.
        ([top_k.build(), quantize.build(bits=4)], 147 * 4 + 2 * 64),
        ([top_k.build(), quantize.build(bits=4, rotate=True)], 260 * 4 + 2 * 64 + 64),
        # What is rounded once more may need all bits of it.
        ([quantize.build(bits=2), quantize.build(bits=5)], 147 * 5 + 2 * 64),
        # What was held back is on no grid, whatever rounded it before.
        ([low_precision.build(), top_k.build()], 15 * (32 + 8)),
        ([quantize.build(bits=2), top_k.build()], 15 * (32 + 8)),
        ([quantize.build(bits=2), random_k.build()], 15 * 32 + 64),
        ([top_k.build(), random_k.build(share=0.5)], 74 * 32 + 64),
        ([quantize.build(bits=2), FORGETFUL], 15 * (2 + 8) + 2 * 64),
        ([random_k.build(), top_k.build(share=0.5, error_feedback=False)], 15 * (32 + 8) + 64),
        # Nor is what is rotated back.
        ([quantize.build(bits=2, rotate=True), FORGETFUL], 15 * (32 + 8)),
        ([quantize.build(bits=2, rotate=True), clip.build(), FORGETFUL], 15 * (32 + 8)),
        (
            [quantize.build(bits=2, rotate=True), quantize.build(bits=4, sparse=True)],
            147 * 4 + 2 * 64,
        ),
    ],
)
def test_message_takes_what_is_counted_by_hand(transforms, bits):
    assert traffic(*transforms) == Traffic(-(-bits // 8), PLAIN, PLAIN)


def send_twice(transforms, message):
    """What three clients send in two rounds, [2, 3, V]: in the first nothing is remembered yet."""

    def one_round(states, key):
        keys = jax.random.split(key, 3)
        messages = jax.tree.map(lambda leaf: jax.random.normal(key, (3, *leaf.shape)), message)
        new = []
        for transform, state in zip(transforms, states, strict=True):
            messages, state = transform.update(
                messages, aggregation.all_clients(jnp.ones(3)), state, keys[len(new)]
            )
            new.append(state)
        return new, messages

    states = [transform.init(message, 3) for transform in transforms]
    return jax.jit(lambda: jax.lax.scan(one_round, states, jax.random.split(jax.random.key(3))))()[
        1
    ]


@pytest.mark.parametrize(
    "transforms",
    [
        [low_precision.build(), top_k.build(share=0.4)],
        [low_precision.build(), FORGETFUL],
        [quantize.build(bits=2), random_k.build(share=0.4)],
        [quantize.build(bits=2), random_k.build(share=0.4, error_feedback=False)],
        [quantize.build(bits=2), quantize.build(bits=3)],
        [quantize.build(bits=2, rotate=True), FORGETFUL],
        [quantize.build(bits=2, rotate=True), quantize.build(bits=4, sparse=True)],
    ],
)
def test_what_is_sent_has_no_more_values_than_its_bits_can_tell(transforms):
    message = {"a": jnp.zeros(147)}
    wire = functools.reduce(
        lambda before, one: one.payload(message, before), transforms, uncompressed(message)
    )
    for sent in np.asarray(send_twice(transforms, message)["a"]).reshape(6, 147):
        values = sent[sent != 0]
        assert len(values) <= wire.values
        assert len(np.unique(values)) <= 2**wire.bits
        assert wire.bits != 16 or (values == values.astype(jnp.bfloat16)).all()


def test_bits_that_an_algorithm_adds_to_transformed_messages_count():
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1))
    algorithm = fed_dyn.build(training, optax.sgd(1.0))
    assert traffic(algorithm=algorithm) == Traffic(PLAIN, PLAIN, PLAIN)
    bits = 15 * (32 + 8) + 1
    sent = traffic(top_k.build(), algorithm=algorithm)
    assert sent == Traffic(-(-bits // 8), PLAIN, PLAIN)


def test_types_of_a_message_count():
    message = {"a": jnp.zeros(3, jnp.bfloat16), "b": jnp.zeros((), jnp.float32)}
    assert uncompressed(message).num_bytes == 3 * 2 + 4
    halves = {"a": jax.ShapeDtypeStruct((6,), jnp.bfloat16)}
    assert uncompressed(halves) == Payload(6, 16)
    assert quantize.build(bits=8).payload(halves, Payload(6, 16)) == Payload(6, 8, 64)


def test_what_the_algorithm_sends_its_clients_is_counted_down():
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), optax.sgd(1.0))
    doubled = algorithm._replace(download=lambda server, client: (server.params, server.params))
    assert traffic(algorithm=doubled) == Traffic(PLAIN, 2 * PLAIN, PLAIN)


def test_average_of_the_model_is_not_sent():
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), optax.sgd(1.0))
    assert traffic(algorithm=_ema.with_ema(algorithm, 0.9)) == Traffic(PLAIN, PLAIN, PLAIN)


def test_counting_computes_nothing():
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), optax.sgd(1.0))
    server, client = jax.eval_shape(lambda: algorithm.init(toy.params()))
    data = jax.eval_shape(lambda: toy.federation((4, 2)))
    counted = communication.traffic(algorithm, [top_k.build()], server, client, data)
    assert counted == traffic(top_k.build())
