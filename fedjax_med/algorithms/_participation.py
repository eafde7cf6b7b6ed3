"""Tracks what share of the clients participates, for servers that keep a mean over all clients."""

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_med.core.types import Array


class ParticipationState(NamedTuple):
    """The share of the clients that participates in a round, by examples.

    The papers' |S| / N once all clients have participated. Before, N counts those that have: the
    estimate of a new client is taken to be the server's, so that the server's remains the mean.
    """

    examples: Array  # float32 [], of all clients that have participated so far
    share: Array  # float32 [], the share of `examples` held by the participants of this round


def init() -> ParticipationState:
    """Build the state before the first round."""
    return ParticipationState(jnp.float32(0), jnp.float32(1))


def update(before: ParticipationState, weight: Array, rounds: Array) -> ParticipationState:
    """Update the state with the participants of one more round.

    Args:
        before: the state before.
        weight: float32 [S], the examples of each client; 0: does not count.
        rounds: int32 [S], the number of rounds in which each participated, this one included.
    """
    examples = before.examples + jnp.sum(jnp.where(rounds == 1, weight, 0))
    return ParticipationState(examples, jnp.sum(weight) / jnp.maximum(examples, 1))
