"""How many of the clients a server has heard, for algorithms that keep a mean over all of them."""

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_med.core.types import Array


class Heard(NamedTuple):
    """Which part of the clients the server hears in a round, by examples.

    The paper's |S| / N once all clients have taken part. Before, N is those that have: the estimate
    of a client not yet heard is taken to be the server's, which keeps the server's the mean of all.
    """

    examples: Array  # float32 [], of all clients that have taken part so far
    share: Array  # float32 [], of these, the examples of those that take part in this round


def nobody() -> Heard:
    """Before the first round."""
    return Heard(jnp.float32(0), jnp.float32(1))


def hear(heard: Heard, weight: Array, rounds: Array) -> Heard:
    """After the messages of one more round.

    Args:
        heard: before.
        weight: float32 [S], the examples of each client; 0: does not count.
        rounds: int32 [S], the rounds in which each has taken part, this one included.
    """
    examples = heard.examples + jnp.sum(jnp.where(rounds == 1, weight, 0))
    return Heard(examples, jnp.sum(weight) / jnp.maximum(examples, 1))
