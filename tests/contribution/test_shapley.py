"""Shapley values: their axioms, a game computed by hand, and samples against exact values."""

import itertools

import numpy as np
import pytest

from fedjax_med.contribution import shapley
from fedjax_med.errors import UserError


def game(players, seed=0):
    """Any value for each coalition, that of nobody included."""
    values = np.random.default_rng(seed).normal(size=2**players)
    return lambda members: values[members @ (1 << np.arange(players))]


def by_permutations(value, players):
    """The definition: the mean gain of a player who joins, over all orders."""
    total = np.zeros(players)
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        members = np.zeros((1, players), bool)
        for player in order:
            before = value(members)[0]
            members[0, player] = True
            total[player] += value(members)[0] - before
    return total / len(orders)


def worth(table):
    """The game of `table`, from a coalition's sorted members to its value."""
    return lambda members: np.array([table["".join(map(str, np.flatnonzero(m)))] for m in members])


# By hand: player 0 joins first, second after 1, second after 2 or last, in 2, 1, 1 and 2 of the 6
# orders, where it adds 6, 12 - 3, 9 - 0 and 15 - 3.
HAND = worth({"": 0, "0": 6, "1": 3, "2": 0, "01": 12, "02": 9, "12": 3, "012": 15})


def test_a_game_of_three_players_computed_by_hand():
    found = shapley.exact(HAND, 3)
    np.testing.assert_allclose(found.value, [(2 * 6 + 9 + 9 + 2 * 12) / 6, 4.5, 1.5])
    np.testing.assert_array_equal(found.error, 0)
    np.testing.assert_allclose(shapley.leave_one_out(HAND, 3), [12, 6, 3])


def test_glove_game_gives_two_thirds_to_the_only_left_glove():
    def gloves(members):  # a pair is worth 1; player 0 has the left one, 1 and 2 a right one each
        return (members[:, 0] & (members[:, 1] | members[:, 2])).astype(float)

    np.testing.assert_allclose(shapley.exact(gloves, 3).value, [2 / 3, 1 / 6, 1 / 6])
    # Nobody is missed but the left glove: this is why leave-one-out is no division of the value.
    np.testing.assert_allclose(shapley.leave_one_out(gloves, 3), [1, 0, 0])


@pytest.mark.parametrize("players", [1, 2, 5])
def test_exact_values_are_the_mean_gains_over_all_orders(players):
    value = game(players)
    np.testing.assert_allclose(
        shapley.exact(value, players).value, by_permutations(value, players), atol=1e-12
    )


def test_values_sum_to_what_all_are_worth_more_than_nobody():
    value = game(7)
    gain = np.diff(value(np.repeat([[False], [True]], 7, axis=1)))[0]
    np.testing.assert_allclose(shapley.exact(value, 7).value.sum(), gain)
    np.testing.assert_allclose(shapley.sampled(value, 7, 4).value.sum(), gain)


def test_players_who_add_the_same_get_the_same():
    value = game(5)

    def symmetric(members):  # players 1 and 3 may change places
        swapped = members[:, [0, 3, 2, 1, 4]]
        return value(members) + value(swapped)

    found = shapley.exact(symmetric, 5).value
    np.testing.assert_allclose(found[1], found[3])
    assert abs(found[1] - found[0]) > 0.01


def test_who_adds_nothing_gets_nothing():
    value = game(4)

    def without_two(members):
        return value(members & np.array([[True, True, False, True]]))

    for found in (shapley.exact(without_two, 4), shapley.sampled(without_two, 4, 8)):
        np.testing.assert_allclose(found.value[2], 0, atol=1e-12)
        assert np.abs(found.value[[0, 1, 3]]).min() > 0.01
    np.testing.assert_allclose(shapley.leave_one_out(without_two, 4)[2], 0, atol=1e-12)


def test_values_are_linear_in_the_game():
    one, other = game(6, seed=1), game(6, seed=2)
    both = shapley.exact(lambda members: 2 * one(members) - 3 * other(members), 6).value
    parts = 2 * shapley.exact(one, 6).value - 3 * shapley.exact(other, 6).value
    np.testing.assert_allclose(both, parts, atol=1e-12)


def test_samples_are_within_four_standard_errors_of_the_exact_values():
    value = game(8, seed=3)
    truth, found = shapley.exact(value, 8).value, shapley.sampled(value, 8, 400, seed=1)
    assert (found.error > 0).all()
    assert (np.abs(found.value - truth) < 4 * found.error).all()
    assert np.abs(found.value - truth).max() > 1e-6  # it has sampled


def test_standard_errors_are_the_spread_of_repeated_estimates():
    value = game(6, seed=4)
    repeated = [shapley.sampled(value, 6, 40, seed) for seed in range(200)]
    spread = np.std([one.value for one in repeated], axis=0)
    told = np.mean([one.error for one in repeated], axis=0)
    np.testing.assert_allclose(told, spread, rtol=0.2)


def test_reversed_orders_make_the_errors_of_a_pairwise_game_vanish():
    gains = np.random.default_rng(0).normal(size=(6, 6))

    def pairs(members):  # worth the sum over its pairs, so early in one order is late in the other
        return np.einsum("mi,ij,mj->m", members, gains, members)

    found = shapley.sampled(pairs, 6, 4)
    np.testing.assert_allclose(found.value, shapley.exact(pairs, 6).value, atol=1e-12)
    np.testing.assert_allclose(found.error, 0, atol=1e-12)


def test_an_order_ends_where_nothing_more_is_gained():
    asked = []

    def any_two(members):  # worth all there is as soon as there are two
        asked.extend(members.sum(axis=1).tolist())
        return np.minimum(members.sum(axis=1), 2).astype(float)

    found = shapley.sampled(any_two, 9, 40, truncation=0.5)
    assert set(asked) == {0, 9, 1, 2}
    np.testing.assert_allclose(found.value.sum(), 2)
    exact = shapley.sampled(any_two, 9, 40)
    assert set(asked) == set(range(10))
    np.testing.assert_allclose(found.value, exact.value)


def test_the_same_seed_draws_the_same_orders():
    value = game(6)
    one, again, other = (shapley.sampled(value, 6, 8, seed).value for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-6


def test_each_coalition_is_valued_once():
    asked = []
    value = game(4)

    def counting(members):
        asked.extend(map(tuple, members.tolist()))
        return value(members)

    cached = shapley.cached(counting)
    np.testing.assert_array_equal(shapley.exact(cached, 4).value, shapley.exact(value, 4).value)
    np.testing.assert_array_equal(
        shapley.sampled(cached, 4, 8).value, shapley.sampled(value, 4, 8).value
    )
    shapley.leave_one_out(cached, 4)
    assert len(asked) == len(set(asked)) == 16


def test_few_players_are_computed_and_many_sampled():
    def squares(members):
        return members.sum(axis=1).astype(float) ** 2

    few = shapley.shapley(squares, shapley.EXACT)
    np.testing.assert_array_equal(few.error, 0)
    np.testing.assert_allclose(few.value, shapley.EXACT)
    asked = shapley.shapley(game(5), 5, permutations=8)
    assert (asked.error > 0).all()
    many = shapley.shapley(lambda m: np.cos(m @ np.arange(1.0, 14.0)), 13)
    assert (many.error > 0).all()


def test_without_players_there_is_nothing_to_divide():
    for found in (shapley.exact(HAND, 0), shapley.sampled(HAND, 0, 4)):
        assert found.value.shape == found.error.shape == (0,)
    assert shapley.leave_one_out(HAND, 0).shape == (0,)


@pytest.mark.parametrize(
    ("permutations", "truncation", "said"),
    [(2, 0.0, "got 2"), (5, 0.0, "got 5"), (4, -0.1, "got -0.1"), (4, float("nan"), "got nan")],
)
def test_what_cannot_be_sampled_by_is_refused(permutations, truncation, said):
    with pytest.raises(UserError, match=said):
        shapley.sampled(HAND, 3, permutations, truncation=truncation)
