"""Batches of a client's examples: shuffled epochs or Poisson sampling."""

import math

import jax
import jax.numpy as jnp

from fedjax_med.core.types import Array, Key


def _shuffle(mask: Array, key: Key) -> Array:
    """Draw a random order of the real examples, followed by the padding: int32 [N]."""
    return jnp.argsort(_draws(mask, key))


def _draws(mask: Array, key: Key) -> Array:
    """Draw a number in [0, 1) for each real example, and give 2 for padding: float32 [N].

    Each position has its own key, so that more padding at the end does not change the other draws.
    """

    def draw(position: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, position))

    return jnp.where(mask, jax.vmap(draw)(jnp.arange(mask.shape[0])), 2.0)


def epoch_batches(mask: Array, batch_size: int, epochs: int, key: Key) -> tuple[Array, Array, Key]:
    """Draw indices [S, B], whether they are real [S, B], and a key [S] for each of the S steps."""
    examples = mask.shape[0]
    size = min(batch_size or examples, examples)
    steps = -(-examples // size)
    fill = steps * size - examples

    def epoch(key: Key) -> tuple[Array, Array, Key]:
        order_key, step_key = jax.random.split(key)
        order = _shuffle(mask, order_key)
        index = jnp.pad(order, (0, fill)).reshape(steps, size)
        real = jnp.pad(mask[order], (0, fill)).reshape(steps, size)
        keys = jax.vmap(lambda step: jax.random.fold_in(step_key, step))(jnp.arange(steps))
        return index, real, keys

    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(epochs))
    parts: tuple[Array, Array, Key] = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.lax.map(epoch, keys)
    )
    return parts


# Upper bound on the probability that a Poisson batch exceeds its capacity. Each step takes
# e^epsilon times this from delta, which limits epsilon to about 30. With 1e-16 the limit would be
# 13, at six sevenths of the capacity.
POISSON_TAIL = 1e-24


def poisson_capacity(batch_size: int, examples: int) -> int:
    """Compute the capacity of a Poisson batch, in examples: a multiple of 8, or all there are.

    The number drawn is binomial, whose tail beyond its mean + 1 is below that of the Poisson
    distribution (Anderson & Samuels, 1967), which is below `POISSON_TAIL` here.

    Args:
        batch_size: B, the expected number of examples.
        examples: N.
    """

    def tail(capacity: int) -> float:
        numbers = range(capacity + 1, 4 * capacity + 100)
        logs = (n * math.log(batch_size) - batch_size - math.lgamma(n + 1) for n in numbers)
        return math.fsum(math.exp(log) for log in logs)

    capacity = batch_size + 8 + -batch_size % 8
    while capacity < examples and tail(capacity) >= POISSON_TAIL:
        capacity += 8
    return min(capacity, examples)


def poisson_batches(
    mask: Array, batch_size: int, epochs: int, key: Key
) -> tuple[Array, Array, Key, Array]:
    """Draw S batches that hold every real example with the probability B / n, independently.

    Returns indices [S, B], whether they are real [S, B], a key [S], and whether the step is taken
    [S]. Examples beyond the capacity of a batch are left out, at random.
    """
    examples = mask.shape[0]
    size = min(batch_size or examples, examples)
    steps, capacity = -(-examples // size), poisson_capacity(size, examples)
    real = jnp.sum(mask, dtype=jnp.int32)
    probability = size / jnp.maximum(real, 1).astype(jnp.float32)  # 1 or more means always

    def batch(place: tuple[Array, Array]) -> tuple[Array, Array, Key, Array]:
        one_key = jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1])
        draw_key, step_key = jax.random.split(one_key)
        draws = _draws(mask, draw_key)
        chosen = mask & (draws < probability)
        order = jnp.argsort(jnp.where(chosen, draws, 2.0))[:capacity]
        return order, chosen[order], step_key, place[1] * size < real

    places = jnp.repeat(jnp.arange(epochs), steps), jnp.tile(jnp.arange(steps), epochs)
    batches: tuple[Array, Array, Key, Array] = jax.lax.map(batch, places)
    return batches
