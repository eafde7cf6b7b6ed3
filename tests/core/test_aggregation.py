import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from fedjax_med.aggregators import mean, trimmed_mean
from fedjax_med.core import aggregation
from fedjax_med.core.aggregation import Aggregator, MessageTransform
from fedjax_med.errors import UserError
from fedjax_med.transforms import clip

KEY = jax.random.key(0)
MESSAGES = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]), "b": jnp.array([0.0, 6.0, 3.0])}
WEIGHTS = jnp.array([1.0, 2.0, 1.0])


def reduce(aggregator, messages=MESSAGES, weights=WEIGHTS):
    one = jax.tree.map(lambda leaf: leaf[0], messages)
    return aggregator.update(
        messages, aggregation.all_clients(weights), aggregator.init(one, 3, 3), KEY
    )[0]


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
    clipped, _ = clip.build(norm=2.0).update(MESSAGES, aggregation.all_clients(WEIGHTS), (), KEY)
    for client in range(3):
        before = np.concatenate([MESSAGES["a"][client], MESSAGES["b"][client][None]])
        after = np.concatenate([clipped["a"][client], clipped["b"][client][None]])
        scale = min(1.0, 2.0 / np.linalg.norm(before))
        np.testing.assert_allclose(after, before * scale, rtol=1e-6)


def test_short_message_and_zero_message_pass_unchanged():
    zeros = jax.tree.map(jnp.zeros_like, MESSAGES)
    for messages in (MESSAGES, zeros):
        clipped, _ = clip.build(norm=100.0).update(
            messages, aggregation.all_clients(WEIGHTS), (), KEY
        )
        toy.assert_same_bits(clipped, messages)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_clip_refuses_a_norm_that_is_not_positive(norm):
    with pytest.raises(UserError, match="norm > 0"):
        clip.build(norm=norm)


def counting(step):
    """A transform that adds `step` and counts its calls; multiplies by ten first."""
    return MessageTransform(
        lambda message, num_clients: jnp.int32(0),
        lambda messages, client_info, state, key: (
            jax.tree.map(lambda leaf: leaf * 10 + step, messages),
            state + 1,
        ),
    )


def test_chain_applies_transforms_in_order_and_keeps_their_state():
    chained = aggregation.chain(counting(1.0), counting(2.0), aggregator=mean.build())
    state = chained.init(jax.tree.map(lambda leaf: leaf[0], MESSAGES), 3, 3)
    client_info = aggregation.all_clients(WEIGHTS)
    for calls in (1, 2):
        message, state = chained.update(MESSAGES, client_info, state, KEY)
        assert [int(part) for part in state[:-1]] == [calls, calls]
    plain = reduce(mean.build())
    toy.assert_close(message, jax.tree.map(lambda leaf: (leaf * 10 + 1) * 10 + 2, plain))


def test_chain_is_closed_and_empty_chain_is_the_aggregator():
    aggregator = mean.build()
    assert aggregation.chain(aggregator=aggregator) is aggregator
    once = aggregation.chain(counting(1.0), counting(2.0), aggregator=aggregator)
    nested = aggregation.chain(
        counting(1.0), aggregator=aggregation.chain(counting(2.0), aggregator=aggregator)
    )
    assert isinstance(nested, Aggregator)
    toy.assert_close(reduce(nested), reduce(once))


def test_every_part_of_a_chain_gets_a_key_of_its_own():
    keys = []

    def spy(messages, client_info, state, key):
        keys.append(tuple(jax.random.key_data(key).tolist()))
        return messages, state

    part = MessageTransform(lambda message, num_clients: (), spy)
    reduce(aggregation.chain(part, part, part, aggregator=mean.build()))
    assert len(set(keys)) == 3


# --- groups -------------------------------------------------------------------------------------

GROUP = jnp.array([0, 1, 0, 1, 1])


def five(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (5, 2), "b": (5,)}
    return {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()
    }


def robust():
    return trimmed_mean.build(share=0.34)


def remembering():
    """The trimmed mean added to all before, so that it has a state."""
    aggregator = robust()

    def update(messages, client_info, state, key):
        message, inner = aggregator.update(messages, client_info, state[0], key)
        total = jax.tree.map(jnp.add, message, state[1])
        return total, (inner, total)

    def init(one, clients, client_info):
        return aggregator.init(one, clients, client_info), jax.tree.map(jnp.zeros_like, one)

    return Aggregator(init, update)


def grouped_round(aggregator, messages, weights, state=None, group=GROUP, groups=2):
    aggregator = aggregation.per_cluster(aggregator, groups)
    if state is None:
        state = aggregator.init(jax.tree.map(lambda leaf: leaf[0], messages), 5, 5)
    client_info = aggregation.all_clients(weights)._replace(cluster=group)
    return aggregator.update(messages, client_info, state, KEY)


@pytest.mark.parametrize("build", [mean.build, robust, remembering])
def test_two_groups_are_two_reductions(build):
    weights = jnp.array([3.0, 1.0, 4.0, 1.0, 5.0])
    state, alone = None, [None, None]
    for seed in (0, 1):
        messages = five(seed)
        message, state = grouped_round(build(), messages, weights, state)
        for group in (0, 1):
            members = jnp.flatnonzero(group == GROUP)
            own = jax.tree.map(lambda leaf, members=members: leaf[members], messages)
            if alone[group] is None:
                # Five: before the first round an aggregator knows how many send, not to which
                # group.
                alone[group] = build().init(jax.tree.map(lambda leaf: leaf[0], own), 5, 5)
            client_info = aggregation.all_clients(weights[members])
            expected, alone[group] = build().update(own, client_info, alone[group], KEY)
            toy.assert_close(jax.tree.map(lambda leaf, g=group: leaf[g], message), expected)


def test_group_without_a_client_that_counts_gives_zero_and_keeps_its_state():
    nobody = jnp.array([0.0, 1.0, 0.0, 1.0, 5.0])  # group 0 has members, and none counts
    _, state = grouped_round(remembering(), five(), jnp.ones(5), groups=3)
    again, after = grouped_round(remembering(), five(1), nobody, state, groups=3)
    message, _ = grouped_round(mean.build(), five(1), nobody, groups=3)
    for group in (0, 2):
        for leaf in jax.tree.leaves(message):
            np.testing.assert_array_equal(leaf[group], jnp.zeros_like(leaf[group]))
        kept = jax.tree.map(lambda leaf, g=group: leaf[g], (state, after))
        toy.assert_same_bits(*kept)
    assert not np.array_equal(state[1]["a"][1], after[1]["a"][1])
    assert not np.array_equal(again["a"][0], again["a"][1])


def test_no_groups_are_the_aggregator_itself():
    aggregator = mean.build()
    assert aggregation.per_cluster(aggregator, 0) is aggregator


def test_hostile_client_of_one_group_does_not_reach_another():
    messages = five()
    bad = jax.tree.map(lambda leaf: leaf.at[1].set(1e6), messages)
    for build in (mean.build, robust):
        clean, _ = grouped_round(build(), messages, jnp.ones(5))
        spoiled, _ = grouped_round(build(), bad, jnp.ones(5))
        np.testing.assert_array_equal(clean["a"][0], spoiled["a"][0])
        assert not np.array_equal(clean["a"][1], spoiled["a"][1])
