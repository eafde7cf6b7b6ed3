"""Shapley values of games, exact or sampled, and leave-one-out values.

A game is given by the value of each coalition, higher is better (Shapley, 1953, "A value for
n-person games").
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError

Floats = npt.NDArray[np.float64]
Coalitions = npt.NDArray[np.bool_]  # [M, n], the members of each
Value = Callable[[Coalitions], Floats]  # -> [M], the value of each coalition

EXACT = 12  # most players for which all coalitions are valued
PERMUTATIONS = 200  # default for more players


class Shares(NamedTuple):
    """The Shapley values of n players."""

    value: Floats  # [n]
    error: Floats  # [n], standard errors; 0 where nothing was sampled


def cached(value: Value) -> Value:
    """Wrap `value` to compute each coalition once, and all new ones of a call together."""
    known: dict[bytes, float] = {}

    def of(coalitions: Coalitions) -> Floats:
        names = [row.tobytes() for row in coalitions]
        new = {name: row for name, row in zip(names, coalitions, strict=True) if name not in known}
        if new:
            known.update(zip(new, value(np.stack(list(new.values()))).tolist(), strict=True))
        return np.array([known[name] for name in names], np.float64)

    return of


def exact(value: Value, players: int) -> Shares:
    """Compute the Shapley values from all coalitions of `players`, that is from 2 ** n values."""
    if not players:
        return Shares(np.zeros(0), np.zeros(0))
    number = np.arange(2**players)
    coalitions = (number[:, None] >> np.arange(players)) % 2 == 1
    values, sizes = value(coalitions), coalitions.sum(axis=1)
    # By coalition size: the share of all orders in which exactly its members precede a player.
    share = np.array([1 / (players * math.comb(players - 1, s)) for s in range(players)])
    found = []
    for player in range(players):
        without = number[~coalitions[:, player]]
        gains = values[without | (1 << player)] - values[without]
        found.append(share[sizes[without]] @ gains)
    return Shares(np.array(found), np.zeros(players))


def check(permutations: int, truncation: float) -> None:
    """Refuse options that `sampled` cannot use.

    Raises:
        UserError: An option is out of its range.
    """
    if permutations < 4 or permutations % 2:
        raise UserError(f"expected an even number of permutations >= 4, got {permutations}.")
    if not 0 <= truncation < math.inf:
        raise UserError(f"expected truncation >= 0, got {truncation}.")


def sampled(
    value: Value,
    players: int,
    permutations: int,
    seed: int | Sequence[int] = 0,
    truncation: float = 0.0,
) -> Shares:
    """Estimate the Shapley values from random orders in which the players join.

    Castro et al. (Computers & Operations Research 2009, "Polynomial calculation of the Shapley
    value based on sampling"). Half of the orders are the others reversed: a player early in one is
    late in the other, which lowers the variance of the mean of the two (Mitchell et al., JMLR 2022,
    "Sampling permutations for Shapley value estimation"). Standard errors are those of the means
    over pairs.

    Args:
        value: of coalitions.
        players: number of players.
        permutations: number of orders, even, at least 4.
        seed: of the orders.
        truncation: an order ends where its coalition's value is closer than this to that of all
            players; the players left add nothing (Ghorbani & Zou, ICML 2019, "Data Shapley"); at
            0 no order ends early, and the estimates are unbiased.

    Raises:
        UserError: `permutations` or `truncation` is out of its range.
    """
    check(permutations, truncation)
    if not players:
        return Shares(np.zeros(0), np.zeros(0))
    generator = np.random.default_rng(seed)
    half = np.stack([generator.permutation(players) for _ in range(permutations // 2)])
    orders = np.concatenate([half, half[:, ::-1]])
    ends = value(np.stack([np.zeros(players, np.bool_), np.ones(players, np.bool_)]))
    members = np.zeros(orders.shape, np.bool_)
    before = np.full(permutations, ends[0])
    gains = np.zeros(orders.shape)
    for place in range(players):
        open_ = np.flatnonzero(np.abs(ends[1] - before) >= truncation)
        if not open_.size:
            break
        player = orders[open_, place]
        members[open_, player] = True
        after = value(members[open_])
        gains[open_, player] = after - before[open_]
        before[open_] = after
    pairs = gains.reshape(2, -1, players).mean(axis=0)
    return Shares(pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / math.sqrt(len(pairs)))


def shapley(
    value: Value,
    players: int,
    permutations: int = 0,
    seed: int | Sequence[int] = 0,
    truncation: float = 0.0,
) -> Shares:
    """Run `exact` up to `EXACT` players, `sampled` beyond or if `permutations` is not 0."""
    if not permutations and players <= EXACT:
        return exact(value, players)
    return sampled(value, players, permutations or PERMUTATIONS, seed, truncation)


def leave_one_out(value: Value, players: int) -> Floats:
    """Compute how much value all players together lose without each one: [n]."""
    if not players:
        return np.zeros(0)
    everybody = np.ones((1, players), np.bool_)
    values = value(np.concatenate([everybody, ~np.eye(players, dtype=np.bool_)]))
    return np.asarray(values[0] - values[1:])
