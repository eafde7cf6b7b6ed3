"""Clients that miss a round, come late, send garbage or are hostile, as rounds promise them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedjax_med.aggregators import mean, median
from fedjax_med.algorithms import fed_avg
from fedjax_med.attacks import gaussian_noise, label_flip, sign_flip
from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import aggregation, client_map, faults
from fedjax_med.core.algorithm import ClientOutput, FederatedAlgorithm, FederatedState
from fedjax_med.core.faults import Attack, Faults, Participation
from fedjax_med.core.process import Process
from fedjax_med.core.round import RoundBatch
from fedjax_med.execution import bucketing
from fedjax_med.transforms import top_k

KEY = jax.random.key(21)
SIZES = (5, 9, 2, 7, 6, 4)
DATA = toy.federation(SIZES)
TRAINING = LocalTrainer(toy.grad_fn(), optax.sgd(0.1, momentum=0.9), 1, 4)
AGGREGATOR = mean.build()


def counting(break_at=(), where="update"):
    """One noisy step, by clients that count their rounds; those of `break_at` examples break."""
    server_part = fed_avg.build(TRAINING, optax.sgd(1.0))
    gradient_of = toy.grad_fn()

    def client_update(server, client, examples, number, key):
        gradient, metrics = gradient_of(server.params, examples, key)
        noise = jax.random.normal(key, (toy.CLASSES,))
        message = {"w": gradient["w"], "b": gradient["b"] + noise}
        weight = jnp.sum(examples.mask, dtype=jnp.float32)
        state = {"rounds": client["rounds"] + 1.0}
        result = ClientOutput(message, state, weight, metrics)
        broken = jnp.isin(weight, jnp.array(break_at, jnp.float32))
        bad = jax.tree.map(lambda leaf: jnp.where(broken, jnp.nan, leaf), getattr(result, where))
        return result._replace(**{where: bad})

    def init(params):
        return server_part.init(params)[0], {"rounds": jnp.float32(0)}

    return FederatedAlgorithm(init, client_update, server_part.server_update)


def start(algorithm):
    return Process(algorithm, AGGREGATOR).init(toy.params(), DATA)


@functools.cache
def step_of(algorithm, given, map_clients, compiled):
    """A round; most tests have one of their own, and compiling it takes longer than running it."""
    process = Process(algorithm, AGGREGATOR, faults=given, keep_updates=True)
    step = functools.partial(process.round, client_map=map_clients)
    return jax.jit(step) if compiled or map_clients is not jax.vmap else step


COUNTING = counting()


def run(
    given,
    number=1,
    algorithm=COUNTING,
    state=None,
    map_clients=toy.MAP_CLIENTS,
    data=DATA,
    compiled=False,
):
    state = start(algorithm) if state is None else state
    step = step_of(algorithm, given, map_clients, compiled)
    history = []
    for _ in range(number):
        # From the host, so that no round is compiled for where the one before left its arrays.
        state, metrics = jax.device_get(step(state, data, KEY))
        state = jax.tree.map(jnp.asarray, state)
        history.append(metrics)
    return state, history


def participation(**options):
    return Faults(Participation(**options))


@functools.cache
def plain():
    """A round in which nothing goes wrong."""
    state, (metrics,) = run(Faults())
    return state, metrics


def model_of(counted):
    """The model after a round of the mean of the messages of those that `counted` alone."""
    weight = np.where(counted, SIZES, 0) / np.sum(np.array(SIZES)[counted])
    message = plain()[1]["message"]
    return {name: toy.params()[name] - np.tensordot(weight, message[name], 1) for name in message}


# --- nothing goes wrong -----------------------------------------------------------------------


def test_full_turnout_is_no_condition_at_all():
    given = Faults(Participation(participation_rate=1.0, straggler_rate=0.0, corruption_rate=0.0))
    assert given.none
    state, (metrics,) = run(given)
    toy.assert_same_bits((state, metrics), plain())
    toy.assert_close(state.server.params, model_of(np.ones(6, bool)))


@pytest.mark.parametrize(
    "given",
    [
        participation(skip_invalid=True),
        participation(max_update_norm=1e6),
        participation(participation_rate=0.999999),
        participation(straggler_rate=1e-7),
        participation(corruption_rate=1e-7),
        Faults(attacks=(sign_flip.build(3, clients=()),)),
        Faults(attacks=(label_flip.build(3, clients=(99,)),)),
    ],
)
def test_condition_that_meets_nobody_changes_nothing(given):
    assert not given.none
    state, (metrics,) = run(given)
    assert metrics.pop("counted").all()
    assert metrics.pop("present").all()
    toy.assert_close((state, metrics), plain())


# --- some miss, are late, or send garbage -----------------------------------------------------

SOME = {
    "absent": {"participation_rate": 0.5},
    "late": {"straggler_rate": 0.5},
    "corrupted": {"corruption_rate": 0.5, "skip_invalid": True},
}


@pytest.mark.parametrize("name", SOME)
def test_round_is_one_of_those_that_count_alone(name):
    state, (metrics,) = run(participation(**SOME[name]))
    counted, present = metrics.pop("counted"), metrics.pop("present")
    assert present.tolist() == (counted.tolist() if name == "absent" else [True] * 6)
    assert 0 < counted.sum() < 6
    toy.assert_close(state.server.params, model_of(counted))
    there = jax.tree.map(lambda leaf: leaf[counted], (metrics, plain()[1]))
    toy.assert_close(*there)


@pytest.mark.parametrize("name", SOME)
def test_who_does_not_count_sends_nothing_and_stays_as_it_was(name):
    state, (metrics,) = run(participation(**SOME[name]))
    missing = ~np.asarray(metrics["counted"])
    np.testing.assert_array_equal(state.clients["rounds"], np.where(missing, 0, 1))
    assert metrics["weight"].tolist() == np.where(missing, 0, SIZES).tolist()
    assert all((leaf[missing] == 0).all() for leaf in jax.tree.leaves(metrics["message"]))
    assert (metrics["count"][missing] == 0).all()
    assert metrics["finite"].all()
    assert metrics["client"].tolist() == list(range(6))


def test_state_of_a_client_counts_the_rounds_that_it_counted_in():
    state, history = run(
        participation(
            participation_rate=0.7, straggler_rate=0.2, corruption_rate=0.2, skip_invalid=True
        ),
        6,
    )
    counted = np.stack([metrics["counted"] for metrics in history])
    assert len(set(counted.sum(0).tolist())) > 1
    np.testing.assert_array_equal(state.clients["rounds"], counted.sum(0))


def test_optimizer_that_is_kept_waits_for_its_client():
    algorithm = fed_avg.build(TRAINING, optax.sgd(1.0), keep_optimizer=True)
    given = participation(participation_rate=0.5)
    first, (metrics,) = run(given, algorithm=algorithm, compiled=True)
    there = np.asarray(metrics["counted"])
    assert 0 < there.sum() < 6
    for leaf in jax.tree.leaves(first.clients):
        moved = np.asarray((leaf != 0).reshape(6, -1).any(1))
        np.testing.assert_array_equal(moved, there)
    second, (metrics,) = run(given, algorithm=algorithm, state=first, compiled=True)
    away = ~np.asarray(metrics["counted"])
    assert (away & there).any()
    toy.assert_same_bits(
        jax.tree.map(lambda leaf: leaf[away], second.clients),
        jax.tree.map(lambda leaf: leaf[away], first.clients),
    )


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(1.0, momentum=0.9), optax.adam(0.01)],
    ids=["momentum", "adam"],
)
def test_what_the_servers_optimizer_remembers_moves_no_model_that_nobody_trained(optimizer):
    algorithm = fed_avg.build(TRAINING, optimizer)
    trained, _ = run(participation(), algorithm=algorithm)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(trained.server.optimizer))
    after, (metrics,) = run(participation(straggler_rate=1.0), algorithm=algorithm, state=trained)
    assert not metrics["counted"].any()
    toy.assert_same_bits(after.server, trained.server)


@pytest.mark.parametrize(
    "options", [{"participation_rate": 0.0}, {"straggler_rate": 1.0}, {"max_update_norm": 1e-9}]
)
def test_model_stays_if_nobody_counts(options):
    state, (metrics,) = run(participation(**options))
    assert not metrics["counted"].any()
    toy.assert_same_bits(state.server, start(COUNTING).server)
    toy.assert_same_bits(state.clients, start(COUNTING).clients)
    assert int(state.round) == 1


def test_probabilities_are_what_they_say_for_every_client_by_itself():
    keys = jax.random.split(KEY, 4000)
    there = jax.vmap(lambda key: faults.participates(Participation(participation_rate=0.3), key))(
        keys
    )
    messages, weight = {"a": jnp.ones((4000, 2))}, jnp.ones(4000)
    given, nobody = participation(straggler_rate=0.2, corruption_rate=0.6), jnp.arange(4000)
    sent, timely = faults.sent(given, messages, weight, nobody, keys, KEY)
    garbage = jnp.isnan(sent["a"]).any(1)
    assert jnp.isnan(sent["a"]).all(1).tolist() == garbage.tolist()
    draws = np.stack([there, ~timely, garbage]).astype(float)
    np.testing.assert_allclose(draws.mean(1), [0.3, 0.2, 0.6], atol=0.03)
    assert abs(np.corrcoef(draws) - np.eye(3)).max() < 0.06


def test_rounds_draw_anew_and_about_the_rate_takes_part():
    _, history = run(participation(participation_rate=0.6), 40, compiled=True)
    counted = np.stack([metrics["counted"] for metrics in history])
    assert len({tuple(row) for row in counted.tolist()}) > 15
    assert abs(counted.mean() - 0.6) < 0.08  # 2.5 standard deviations of 240 draws
    assert (abs(counted.mean(0) - 0.6) < 0.25).all()


# --- what is no number, and what is absurd ----------------------------------------------------


def test_garbage_is_named_where_it_is_not_skipped():
    state, (metrics,) = run(participation(corruption_rate=0.5))
    bad = ~np.asarray(metrics["finite"])
    assert 0 < bad.sum() < 6
    assert metrics["counted"].all()
    for client in range(6):
        here = [np.isnan(leaf[client]).all() for leaf in jax.tree.leaves(metrics["message"])]
        assert here == [bad[client]] * 2
    _, (other,) = run(participation(corruption_rate=0.5, skip_invalid=True))
    np.testing.assert_array_equal(other["counted"], ~bad)
    assert not faults.is_finite(state.server)


def test_garbage_of_who_is_late_or_away_ends_no_run():
    _, (metrics,) = run(
        participation(participation_rate=0.5, straggler_rate=0.5, corruption_rate=1.0)
    )
    counted = np.asarray(metrics["counted"])
    assert 0 < counted.sum() < 6
    np.testing.assert_array_equal(metrics["finite"], ~counted)


def test_metrics_that_are_no_numbers_do_not_decide_who_counts():
    algorithm = counting(break_at=(9, 6), where="metrics")
    state, (metrics,) = run(participation(skip_invalid=True), algorithm=algorithm)
    assert metrics["counted"].all()
    assert metrics["finite"].all()
    assert [loss == 0 for loss in metrics["loss"].tolist()] == [s in (9, 6) for s in SIZES]
    toy.assert_close(state.server.params, model_of(metrics["counted"]))


@pytest.mark.parametrize("where", ["update", "state"])
def test_client_whose_own_training_breaks_is_skipped_with_all_that_it_says(where):
    algorithm = counting(break_at=(9, 6), where=where)
    state, (metrics,) = run(participation(skip_invalid=True), algorithm=algorithm)
    assert metrics["counted"].tolist() == [True, False, True, True, False, True]
    assert metrics["finite"].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    toy.assert_close(state.server.params, model_of(metrics["counted"]))
    np.testing.assert_array_equal(state.clients["rounds"], [1, 0, 1, 1, 0, 1])


@pytest.mark.parametrize("where", ["update", "state"])
def test_robust_aggregator_implies_skipping(where):
    algorithm, aggregator = counting(break_at=(9, 6), where=where), median.build()
    process = Process(algorithm, aggregation.chain(top_k.build(), aggregator=aggregator))
    state, metrics = process.round(process.init(toy.params(), DATA), DATA, KEY)
    assert metrics["counted"].tolist() == [True, False, True, True, False, True]
    assert metrics["finite"].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    np.testing.assert_array_equal(state.clients["rounds"], [1, 0, 1, 1, 0, 1])
    memory = np.asarray(state.aggregator[0]).any(axis=1)
    np.testing.assert_array_equal(memory, metrics["counted"])


def test_skipping_works_for_an_algorithm_without_client_state():
    def client_update(server, client, examples, number, key):
        before = {"rounds": jnp.float32(0)}
        result = COUNTING.client_update(server, before, examples, number, key)
        return result._replace(state=())

    algorithm = COUNTING._replace(
        init=lambda params: (COUNTING.init(params)[0], ()), client_update=client_update
    )
    state, (metrics,) = run(
        participation(corruption_rate=0.5, skip_invalid=True), algorithm=algorithm
    )
    expected, (other,) = run(participation(corruption_rate=0.5, skip_invalid=True))
    toy.assert_close((state.server, metrics), (expected.server, other))


def test_absurd_message_is_left_out():
    norms = jax.vmap(optax.tree.norm)(plain()[1]["message"])
    border = float(np.sort(norms)[3:5].mean())
    state, (metrics,) = run(participation(max_update_norm=border))
    np.testing.assert_array_equal(metrics["counted"], norms < border)
    assert metrics["counted"].sum() == 4
    toy.assert_close(state.server.params, model_of(metrics["counted"]))


def test_message_that_is_no_number_is_not_left_out_as_absurd():
    algorithm = counting(break_at=(9,))
    _, (metrics,) = run(participation(max_update_norm=1e6), algorithm=algorithm)
    assert metrics["finite"].tolist() == [True, False, True, True, True, True]
    assert metrics["counted"].all()
    infinite = {"a": jnp.array([1.0, jnp.inf])}
    assert not faults.within_norm(Participation(max_update_norm=1e6), infinite)
    assert faults.within_norm(Participation(), infinite)


def test_client_without_examples_does_not_count():
    data = DATA._replace(mask=DATA.mask.at[1].set(False))
    state, (metrics,) = run(participation(skip_invalid=True), data=data)
    assert metrics["counted"].tolist() == [True, False, True, True, True, True]
    assert state.clients["rounds"].tolist() == [1, 0, 1, 1, 1, 1]
    toy.assert_close(state.server.params, model_of(metrics["counted"]))


# --- hostile clients --------------------------------------------------------------------------


def test_attack_is_on_the_clients_of_its_ids_wherever_they_are():
    attack = sign_flip.build(3, clients=(4, 1), scale=2.0)
    given = Faults(attacks=(attack,))
    honest = plain()[1]["message"]
    _, (metrics,) = run(given)
    there = jnp.array([1, 2, 4])
    data = jax.tree.map(lambda leaf: leaf[there], DATA)
    _, (some,) = run(given, data=RoundBatch(data, (there,)))
    factor = jnp.array([1.0, -2.0, 1.0, 1.0, -2.0, 1.0])
    for name in ("w", "b"):
        expected = honest[name] * factor.reshape(-1, *(1,) * (honest[name].ndim - 1))
        toy.assert_close(metrics["message"][name], expected)
        toy.assert_close(some["message"][name], expected[there])


def test_attacks_act_one_after_the_other_and_draw_their_own_numbers():
    attacks = tuple(gaussian_noise.build(3, clients=(0,), add=True) for _ in range(2))
    sent = run(Faults(attacks=attacks))[1][0]["message"]["w"][0]
    once = run(Faults(attacks=attacks[:1]))[1][0]["message"]["w"][0]
    honest = plain()[1]["message"]["w"][0]
    first, second = np.asarray(once - honest).ravel(), np.asarray(sent - once).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3  # of 144 numbers each
    np.testing.assert_allclose([first.std(), second.std()], 1.0, rtol=0.3)


def test_absent_hostile_client_sends_nothing():
    attack = gaussian_noise.build(3, clients=tuple(range(6)), std=100.0)
    _, (metrics,) = run(Faults(Participation(participation_rate=0.5), (attack,)))
    missing = ~np.asarray(metrics["counted"])
    assert 0 < missing.sum() < 6
    sent = np.asarray(abs(metrics["message"]["w"]).max((1, 2)))
    np.testing.assert_array_equal(sent > 10, ~missing)


def test_every_attack_draws_anew_for_every_client_and_round():
    seen = []

    def examples(examples, key):
        bits = jax.random.key_data(key)
        jax.debug.callback(lambda bits: seen.append(tuple(bits.tolist())), bits)
        return examples

    attacks = (Attack((0, 1), examples=examples), Attack((2,), examples=examples))
    run(Faults(attacks=attacks), 2, map_clients=client_map.sequential)
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 2 * 2 * 6


# --- the same however it is computed ----------------------------------------------------------

ALL = Faults(
    Participation(
        participation_rate=0.7,
        straggler_rate=0.2,
        corruption_rate=0.2,
        skip_invalid=True,
        max_update_norm=50.0,
    ),
    (gaussian_noise.build(3, clients=(3,), std=0.1), label_flip.build(3, clients=(1,))),
)


@pytest.mark.parametrize("name", sorted(client_map.CLIENT_MAPS.keys() - {"vmap"}))
def test_every_client_map_draws_the_same(name):
    expected = run(ALL, 3, map_clients=jax.vmap)
    actual = run(ALL, 3, map_clients=client_map.CLIENT_MAPS[name])
    counted = np.stack([metrics["counted"] for metrics in expected[1]])
    assert 0 < counted.sum() < counted.size
    for one, other in zip(expected[1], actual[1], strict=True):
        np.testing.assert_array_equal(one["counted"], other["counted"])
    toy.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_buckets_draw_the_same():
    groups = bucketing.buckets(np.array(SIZES), 4)
    assert len(groups) > 1
    places = tuple(jnp.asarray(group, jnp.int32) for group in groups)
    cut = tuple(
        jax.tree.map(lambda leaf, group=group: leaf[group, : max(SIZES[i] for i in group)], DATA)
        for group in groups
    )
    expected = run(ALL, 3)
    actual = run(ALL, 3, data=RoundBatch(cut, places), compiled=True)
    toy.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_draws_of_a_client_do_not_depend_on_who_else_is_asked():
    given = participation(participation_rate=0.6, straggler_rate=0.3)
    _, history = run(given, 5)
    there = jnp.array([0, 3, 5])
    data = jax.tree.map(lambda leaf: leaf[there], DATA)
    state, some = run(given, 5, data=RoundBatch(data, (there,)))
    for one, other in zip(history, some, strict=True):
        np.testing.assert_array_equal(one["counted"][there], other["counted"])
    assert len({tuple(metrics["counted"].tolist()) for metrics in some}) > 1
    rounds = np.zeros(6)
    rounds[there] = np.sum([metrics["counted"] for metrics in some], axis=0)
    np.testing.assert_array_equal(state.clients["rounds"], rounds)


def test_clients_in_another_order_draw_by_their_ids():
    order = jnp.array([3, 0, 5, 4, 1, 2], jnp.int32)
    data = jax.tree.map(lambda leaf: leaf[order], DATA)
    expected, (one,) = run(participation(participation_rate=0.5, straggler_rate=0.2))
    actual, (other,) = run(
        participation(participation_rate=0.5, straggler_rate=0.2), data=RoundBatch(data, ids=order)
    )
    toy.assert_close(other, jax.tree.map(lambda leaf: leaf[order], one))
    toy.assert_close(actual.server, expected.server)


def test_resumed_run_is_the_one_that_never_stopped():
    two, _ = run(ALL, 2)
    again = FederatedState(*jax.tree.map(jnp.array, two))
    toy.assert_same_bits(run(ALL, 2, state=again)[0], run(ALL, 4)[0])
