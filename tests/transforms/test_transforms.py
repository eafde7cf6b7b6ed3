"""The transforms that clip, leave out and round what clients send."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean
from fedjax_med.algorithms import fed_avg
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import aggregation
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.transforms import (
    _error_feedback,
    adaptive_clip,
    low_precision,
    quantize,
    random_k,
    top_k,
)

KEY = jax.random.key(4)
SPARSE = {"top_k": top_k, "random_k": random_k}


def messages(clients=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(rng.normal(size=(clients, 3, 5)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(clients, 5)), jnp.float32),
    }


def one_of(stacked):
    return jax.tree.map(lambda leaf: leaf[0], stacked)


def flat(stacked):
    """[S, V]"""
    return np.concatenate(
        [np.asarray(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(stacked)], axis=1
    )


def everyone(clients=3):
    return aggregation.all_clients(jnp.arange(1.0, clients + 1))


def apply(transform, stacked, key=KEY):
    clients = jax.tree.leaves(stacked)[0].shape[0]
    state = transform.init(one_of(stacked), clients)
    return jax.jit(transform.update)(stacked, everyone(clients), state, key)[0]


def draws(transform, stacked, number=2000):
    """What `number` keys make of `stacked`: [number, S, V]."""
    state = transform.init(one_of(stacked), 3)

    def draw(key):
        changed = transform.update(stacked, everyone(), state, key)[0]
        leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(changed)]
        return jnp.concatenate(leaves, axis=1)

    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, number)), np.float64)


def assert_unbiased(sample, expected):
    error = sample.std(0) / np.sqrt(len(sample))
    assert (abs(sample.mean(0) - expected) <= 4 * error + 1e-6).all()


# --- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform",
    [
        top_k.build(share=1.0),
        top_k.build(share=1.0, error_feedback=False),
        random_k.build(share=1.0),
        random_k.build(share=1.0, error_feedback=False),
        quantize.build(bits=32),
        quantize.build(bits=32, rotate=True),
    ],
)
def test_all_values_and_all_bits_are_the_identity_bit_for_bit(transform):
    stacked = messages()
    stacked["a"] = stacked["a"].at[0, 0, 0].set(-0.0).at[1, 0, 0].set(jnp.nan)
    changed = apply(transform, stacked)
    assert flat(changed).tobytes() == flat(stacked).tobytes()
    assert transform.init(one_of(stacked), 3) == ()


# --- top_k and random_k ---------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "kept"), [(0.25, 5), (0.01, 1), (0.9, 18)])
def test_top_k_keeps_the_largest_of_all_leaves_together(share, kept):
    stacked = messages()
    expected = flat(stacked).copy()
    for row in expected:
        row[np.argsort(abs(row))[:-kept]] = 0
    np.testing.assert_array_equal(flat(apply(top_k.build(share=share), stacked)), expected)


def test_top_k_of_equal_values_keeps_no_more_than_its_share():
    stacked = jax.tree.map(jnp.ones_like, messages())
    assert (np.count_nonzero(flat(apply(top_k.build(share=0.25), stacked)), axis=1) == 5).all()


def test_random_k_keeps_as_many_for_each_client_and_draws_them_by_itself():
    transform = random_k.build(share=0.5)
    kept = flat(apply(transform, messages())) != 0
    assert (kept.sum(1) == 10).all()
    assert (kept[0] != kept[1]).any()
    other = flat(apply(transform, messages(), jax.random.key(5))) != 0
    assert (kept[0] != other[0]).any()


def test_random_k_without_error_feedback_is_unbiased():
    sample = draws(random_k.build(share=0.25, error_feedback=False), messages())
    assert (np.count_nonzero(sample, axis=2) == 5).all()
    assert_unbiased(sample, flat(messages()))


@pytest.mark.parametrize("module", SPARSE.values(), ids=SPARSE)
def test_what_is_held_back_is_sent_later(module):
    transform = module.build(share=0.15)
    state = transform.init(one_of(messages()), 3)
    sent = total = 0.0
    for number in range(6):
        stacked = messages(seed=number)
        key = jax.random.fold_in(KEY, number)
        changed, state = transform.update(stacked, everyone(), state, key)
        assert (np.count_nonzero(flat(changed), axis=1) == 3).all()
        sent, total = sent + flat(changed), total + flat(stacked)
    np.testing.assert_allclose(sent + np.asarray(state), total, atol=1e-5)
    assert abs(np.asarray(state)).max() > 0.5


@pytest.mark.parametrize("module", SPARSE.values(), ids=SPARSE)
def test_memory_of_clients_that_are_absent_or_do_not_count_stays(module):
    transform, stacked = module.build(share=0.15), messages()
    state = transform.init(one_of(stacked), 5) + jnp.arange(5.0)[:, None]
    stacked = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), stacked)
    client_info = everyone()._replace(
        num_examples=jnp.array([3.0, 0.0, 1.0]), client=jnp.array([0, 2, 4], jnp.int32)
    )
    changed, new = jax.jit(transform.update)(stacked, client_info, state, KEY)
    np.testing.assert_array_equal(new[jnp.array([1, 2, 3])], state[jnp.array([1, 2, 3])])
    assert (new[jnp.array([0, 4])] != state[jnp.array([0, 4])]).any(axis=1).all()
    assert np.isnan(flat(changed)[1]).all()
    np.testing.assert_allclose(
        flat(changed)[[0, 2]] + new[jnp.array([0, 4])],
        flat(stacked)[[0, 2]] + np.array([[0.0], [4.0]]),
        atol=1e-6,
    )


@pytest.mark.parametrize("module", SPARSE.values(), ids=SPARSE)
def test_message_of_a_client_does_not_depend_on_who_else_sends(module):
    transform, stacked = module.build(share=0.25), messages()
    state = transform.init(one_of(stacked), 3) + jnp.arange(3.0)[:, None]
    changed, _ = transform.update(stacked, everyone(), state, KEY)
    last = jax.tree.map(lambda leaf: leaf[2:], stacked)
    alone = aggregation.ClientInfo(*(field[2:] for field in everyone()))
    toy.assert_same_bits(
        transform.update(last, alone, state, KEY)[0],
        jax.tree.map(lambda leaf: leaf[2:], changed),
    )


@pytest.mark.parametrize("module", [top_k, random_k])
def test_message_that_overflows_stays_in_no_memory(module):
    """Else one that a robust aggregator leaves out would end the run in the next check."""
    transform, stacked = module.build(share=0.25), {"a": jnp.full((2, 8), 3e38)}
    stacked["a"] = stacked["a"].at[0].set(jnp.arange(8.0))
    state = transform.init(one_of(stacked), 2)
    for _ in range(3):
        _, state = transform.update(stacked, everyone(2), state, KEY)
    assert np.isfinite(state).all()
    assert state[0].any()


def test_memory_that_is_too_large_is_refused_before_it_is_taken():
    message = {"a": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)}
    with pytest.raises(UserError, match=r"top_k.*14\.9 GiB; use error_feedback=False"):
        jax.eval_shape(lambda: top_k.build().init(message, 1000))
    assert top_k.build(error_feedback=False).init(message, 1000) == ()
    limit = {"a": jax.ShapeDtypeStruct((_error_feedback.MOST_BYTES // 4,), jnp.float32)}
    assert jax.eval_shape(lambda: top_k.build().init(limit, 1)).shape == (1, 2**31)


def descend(transform, steps):
    """The distance from the optimum after `steps` from (1, 1, 1), three clients, gradients sent.

    Example 1 of Beznosikov et al. ("On Biased Compression for Distributed Learning", JMLR 2023):
    client i has <a_i, x>^2 + |x|^2 / 4, and its gradient's largest value points away from zero.
    """
    a = jnp.array([[-3.0, 2.0, 2.0], [2.0, -3.0, 2.0], [2.0, 2.0, -3.0]])

    def step(_, carry):
        x, state = carry
        gradients = 2 * (a @ x)[:, None] * a + x[None] / 2
        sent, state = transform.update(gradients, everyone(), state, KEY)
        return x - 0.01 * jnp.mean(sent, axis=0), state

    start = jnp.ones(3)
    x, _ = jax.lax.fori_loop(0, steps, step, (start, transform.init(start, 3)))
    return float(jnp.linalg.norm(x))


def test_error_feedback_makes_top_k_converge_where_it_diverges_without():
    assert descend(top_k.build(share=1.0), 1000) < 0.01
    assert descend(top_k.build(share=1 / 3, error_feedback=False), 1000) > 100
    assert descend(top_k.build(share=1 / 3), 1000) < 0.02


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
@pytest.mark.parametrize("module", SPARSE.values(), ids=SPARSE)
def test_share_out_of_range_is_refused(module, share):
    with pytest.raises(UserError, match=r"0 < share <= 1, got"):
        module.build(share=share)


# --- quantize -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 3}, {"bits": 2, "rotate": True}])
def test_quantize_is_unbiased(options):
    sample = draws(quantize.build(**options), messages())
    assert sample.std(0).max() > 0.01
    assert_unbiased(sample, flat(messages()))


def test_one_bit_is_a_leafs_least_and_largest_value():
    stacked = messages()
    changed = apply(quantize.build(bits=1), stacked)
    for name in ("a", "b"):
        for before, after in zip(stacked[name], changed[name], strict=True):
            levels = np.unique(np.round(np.asarray(after), 5))
            expected = [float(before.min()), float(before.max())]
            np.testing.assert_allclose(levels, expected, atol=1e-4)


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_quantized_values_are_on_the_grid_and_less_than_a_step_away(bits):
    stacked = messages()
    changed = apply(quantize.build(bits=bits), stacked)
    for before, after in zip(stacked["a"], changed["a"], strict=True):
        step = float(before.max() - before.min()) / (2**bits - 1)
        assert abs(np.asarray(after - before)).max() <= step * 1.01 + 1e-6
        if bits < 16:  # the grid of 16 bits is as fine as float32 is exact
            level = (np.asarray(after, np.float64) - float(before.min())) / step
            np.testing.assert_allclose(level, np.round(level), atol=1e-2)


def test_values_on_the_grid_and_leaves_of_one_value_stay():
    stacked = {"a": jnp.tile(jnp.arange(4.0), (3, 1)), "b": jnp.full((3, 2), 0.1), "c": jnp.ones(3)}
    toy.assert_same_bits(apply(quantize.build(bits=2), stacked), stacked)
    stacked["a"] = jnp.tile(jnp.arange(5.0), (3, 1))  # four levels, and what is not sent
    toy.assert_same_bits(apply(quantize.build(bits=2, sparse=True), stacked), stacked)


def test_sparse_quantize_leaves_zeros_and_rounds_what_a_chain_sends():
    chained = apply(top_k.build(share=0.25), messages())
    zero = flat(chained) == 0
    changed = flat(apply(quantize.build(bits=1, sparse=True), chained))
    np.testing.assert_array_equal(changed == 0, zero)
    for leaf, new in zip(flat({"a": chained["a"]}), changed[:, :15], strict=True):
        levels = leaf[leaf != 0].min(), leaf[leaf != 0].max()
        assert all(np.isclose(value, levels, atol=1e-5).any() for value in new[new != 0])
    assert (flat(apply(quantize.build(bits=1), chained))[zero] != 0).any()


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_rotation_is_the_orthonormal_hadamard_matrix(size):
    matrix = np.asarray(jax.vmap(quantize.hadamard)(jnp.eye(size)))
    expected = np.ones((1, 1))
    while len(expected) < size:
        expected = np.kron([[1, 1], [1, -1]], expected)
    np.testing.assert_allclose(matrix, expected / np.sqrt(size), rtol=1e-5)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-5)


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 16)])
def test_rotation_pads_to_a_power_of_two(size, expected):
    assert quantize.padded(size) == expected


def test_rotation_makes_the_error_smaller_where_few_values_are_large():
    rng = np.random.default_rng(1)
    spiky = rng.normal(size=(3, 500)) * 0.01
    spiky[:, 7], spiky[:, 90] = 5.0, -5.0
    stacked = {"a": jnp.asarray(spiky, jnp.float32)}

    def error(rotate):
        changed = apply(quantize.build(bits=2, rotate=rotate), stacked)
        return np.linalg.norm(flat(changed) - spiky)

    assert error(True) < 0.1 * error(False)


@pytest.mark.parametrize("bits", [0, 17, 24, 33])
def test_quantize_refuses_other_numbers_of_bits(bits):
    with pytest.raises(UserError, match=f"bits in 1..16 or 32, got bits={bits}"):
        quantize.build(bits=bits)


def test_quantize_refuses_to_rotate_what_is_sparse():
    with pytest.raises(UserError, match="either rotate or sparse"):
        quantize.build(rotate=True, sparse=True)


def test_clients_round_by_themselves():
    same = jax.tree.map(lambda leaf: jnp.tile(leaf[:1], (3, *(1,) * (leaf.ndim - 1))), messages())
    changed = flat(apply(quantize.build(bits=2), same))
    assert (changed[0] != changed[1]).any()


# --- low_precision --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_low_precision_is_the_cast_and_keeps_the_type(kind):
    stacked = messages()
    changed = apply(low_precision.build(kind=kind), stacked)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.dtype(kind)), stacked)
    toy.assert_same_bits(changed, jax.tree.map(lambda leaf: leaf.astype(np.float32), expected))
    assert (flat(changed) != flat(stacked)).mean() > 0.9


@pytest.mark.parametrize(("kind", "most"), [("float16", 65504.0), ("bfloat16", 255 * 2.0**120)])
def test_low_precision_makes_no_infinity_and_keeps_those_there_are(kind, most):
    largest = float(jnp.finfo(jnp.float32).max)
    values = [[largest, -largest, 1.5, jnp.inf, -jnp.inf, jnp.nan]]
    changed = apply(low_precision.build(kind=kind), {"a": jnp.array(values, jnp.float32)})["a"]
    np.testing.assert_array_equal(changed, [[most, -most, 1.5, jnp.inf, -jnp.inf, jnp.nan]])


def test_unknown_kind_is_refused():
    with pytest.raises(UserError, match=r"'bfloat8'.*Did you mean 'bfloat16'"):
        low_precision.build(kind="bfloat8")


# --- adaptive_clip --------------------------------------------------------------------------------


def with_norms(norms):
    return {"a": jnp.asarray(norms)[:, None] * jnp.array([[0.6, 0.0]]), "b": 0.8 * jnp.array(norms)}


def norms_of(stacked):
    return np.linalg.norm(flat(stacked), axis=1)


def test_bound_clips_this_round_and_moves_for_the_next():
    transform = adaptive_clip.build(quantile=0.5, norm=1.0, rate=0.2)
    stacked = with_norms([0.5, 2.0, 3.0])
    state = transform.init(one_of(stacked), 3)
    changed, new = transform.update(stacked, everyone(), state, KEY)
    np.testing.assert_allclose(norms_of(changed), [0.5, 1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(new, np.exp(-0.2 * (1 / 3 - 0.5)), rtol=1e-6)
    assert transform.across


def test_only_clients_that_count_move_the_bound():
    transform = adaptive_clip.build()
    stacked, state = with_norms([0.5, 2.0, jnp.nan]), jnp.float32(1.0)
    for weights, expected in (([4.0, 0, 0], -0.1), ([0, 1.0, 0], 0.1), ([0.0, 0, 0], 0.0)):
        client_info = aggregation.all_clients(jnp.array(weights))
        _, new = transform.update(stacked, client_info, state, KEY)
        np.testing.assert_allclose(new, np.exp(expected), rtol=1e-6)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("start", [0.01, 100.0])
def test_bound_finds_the_quantile_of_the_norms(quantile, start):
    norms = np.random.default_rng(2).lognormal(size=200).astype(np.float32)
    transform = adaptive_clip.build(quantile=quantile, norm=start)
    stacked, client_info = with_norms(norms), everyone(200)

    def follow(_, state):
        return transform.update(stacked, client_info, state, KEY)[1]

    state = jax.lax.fori_loop(0, 400, follow, jnp.float32(start))
    assert abs((norms <= float(state)).mean() - quantile) < 0.03


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"quantile": 0.0}, "0 < quantile < 1"),
        ({"quantile": 1.0}, "0 < quantile < 1"),
        ({"norm": 0.0}, "norm > 0"),
        ({"rate": -0.1}, "rate >= 0"),
    ],
)
def test_adaptive_clip_refuses_options_out_of_range(options, match):
    with pytest.raises(UserError, match=match):
        adaptive_clip.build(**options)


# --- in a federation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transforms",
    [
        (adaptive_clip.build(norm=0.1), top_k.build(share=0.2), quantize.build(sparse=True)),
        (random_k.build(share=0.3), low_precision.build()),
    ],
)
def test_federation_learns_from_what_a_chain_of_transforms_sends(transforms):
    data = toy.federation((6, 3, 4))
    algorithm = fed_avg.build(LocalTrainer(toy.grad_fn(), optax.sgd(0.1)), optax.sgd(1.0))
    aggregator = aggregation.chain(*transforms, aggregator=mean.build())
    state = Process(algorithm, aggregator).init(toy.params(), data)
    step = jax.jit(Process(algorithm, aggregator).round)
    losses = []
    for _ in range(30):
        state, metrics = step(state, data, KEY)
        losses.append(float(metrics["loss"].sum() / metrics["count"].sum()))
    assert losses[-1] < 0.8 * losses[0]
