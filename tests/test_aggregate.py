import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med import aggregate
from fedjax_med.aggregate import MessageTransform, Reducer
from fedjax_med.errors import UserError
from fedjax_med.reducers import mean
from fedjax_med.transforms import clip

KEY = jax.random.key(0)
MESSAGES = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]), "b": jnp.array([0.0, 6.0, 3.0])}
WEIGHTS = jnp.array([1.0, 2.0, 1.0])


def reduce(reducer, messages=MESSAGES, weights=WEIGHTS):
    one = jax.tree.map(lambda leaf: leaf[0], messages)
    return reducer.update(messages, weights, reducer.init(one, 3), KEY)[0]


def test_mean_weighs_by_examples():
    toy.assert_close(reduce(mean.build()), {"a": jnp.array([3.0, 4.75]), "b": jnp.array(3.75)})


def test_uniform_mean_weighs_clients_the_same():
    expected = {"a": jnp.array([3.0, 5.0]), "b": jnp.array(3.0)}
    toy.assert_close(reduce(mean.build(weighting="uniform")), expected)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_client_of_weight_zero_does_not_count_even_with_nan(weighting):
    messages = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), MESSAGES)
    expected = jax.tree.map(lambda leaf: (leaf[0] + leaf[2]) / 2, MESSAGES)
    weights = jnp.array([1.0, 0.0, 1.0])
    toy.assert_close(reduce(mean.build(weighting=weighting), messages, weights), expected)


def test_mean_of_nobody_is_zero():
    expected = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), MESSAGES)
    toy.assert_same_bits(reduce(mean.build(), weights=jnp.zeros(3)), expected)


def test_unknown_weighting_is_refused():
    with pytest.raises(UserError, match=r"'exmples'.*'examples'"):
        mean.build(weighting="exmples")


def test_clipped_message_has_bounded_norm_and_its_direction():
    clipped, _ = clip.build(norm=2.0).update(MESSAGES, (), KEY)
    for client in range(3):
        before = np.concatenate([MESSAGES["a"][client], MESSAGES["b"][client][None]])
        after = np.concatenate([clipped["a"][client], clipped["b"][client][None]])
        scale = min(1.0, 2.0 / np.linalg.norm(before))
        np.testing.assert_allclose(after, before * scale, rtol=1e-6)


def test_short_message_and_zero_message_pass_unchanged():
    zeros = jax.tree.map(jnp.zeros_like, MESSAGES)
    for messages in (MESSAGES, zeros):
        clipped, _ = clip.build(norm=100.0).update(messages, (), KEY)
        toy.assert_same_bits(clipped, messages)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_clip_refuses_a_norm_that_is_not_positive(norm):
    with pytest.raises(UserError, match="norm > 0"):
        clip.build(norm=norm)


def counting(step):
    """A transform that adds `step` and counts its calls; multiplies by ten first."""
    return MessageTransform(
        lambda message, num_clients: jnp.int32(0),
        lambda messages, state, key: (
            jax.tree.map(lambda leaf: leaf * 10 + step, messages),
            state + 1,
        ),
    )


def test_chain_applies_transforms_in_order_and_keeps_their_state():
    chained = aggregate.chain(counting(1.0), counting(2.0), reducer=mean.build())
    state = chained.init(jax.tree.map(lambda leaf: leaf[0], MESSAGES), 3)
    for calls in (1, 2):
        message, state = chained.update(MESSAGES, WEIGHTS, state, KEY)
        assert [int(part) for part in state[:-1]] == [calls, calls]
    plain = reduce(mean.build())
    toy.assert_close(message, jax.tree.map(lambda leaf: (leaf * 10 + 1) * 10 + 2, plain))


def test_chain_is_closed_and_empty_chain_is_the_reducer():
    reducer = mean.build()
    assert aggregate.chain(reducer=reducer) is reducer
    once = aggregate.chain(counting(1.0), counting(2.0), reducer=reducer)
    nested = aggregate.chain(counting(1.0), reducer=aggregate.chain(counting(2.0), reducer=reducer))
    assert isinstance(nested, Reducer)
    toy.assert_close(reduce(nested), reduce(once))


def test_every_part_of_a_chain_gets_a_key_of_its_own():
    keys = []

    def spy(messages, state, key):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return messages, state

    part = MessageTransform(lambda message, num_clients: (), spy)
    reduce(aggregate.chain(part, part, part, reducer=mean.build()))
    assert len(set(keys)) == 3
