"""One client's training: a scan over local steps."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params


def constant(round: Array) -> Array:
    """The schedule that leaves the learning rate as it is."""
    return jnp.ones_like(round, jnp.float32)


def slower_backbone(
    optimizer: optax.GradientTransformation, factor: float, head: str
) -> optax.GradientTransformation:
    """`optimizer`, whose updates of all but the model's `head` are multiplied by `factor`.

    A pretrained backbone wants smaller steps than a classifier that begins at random
    ("discriminative fine-tuning", Howard & Ruder, ACL 2018); with 0 it is frozen.

    Args:
        optimizer: any.
        factor: at least 0.
        head: the key of the classifier in the parameters.
    """
    if factor == 1:
        return optimizer

    def scale(updates: Params, params: Params | None = None) -> Params:
        del params
        return {
            name: part if name == head else jax.tree.map(lambda leaf: factor * leaf, part)
            for name, part in updates.items()
        }

    return optax.chain(optimizer, optax.stateless(scale))


class LocalTraining(NamedTuple):
    """How a client trains.

    grad_fn: the gradient of the loss on a batch.
    optimizer: any optax optimizer; its state never leaves the client.
    epochs: passes over the client's examples in one round.
    batch_size: B; 0 is all examples in one step.
    schedule: from the round to the factor of the optimizer's updates.
    features: ``(params, examples [B], key) -> float [B, D]``, what the model makes of a batch
        before its classifier, of the same changed images as `grad_fn` sees with that key.
    poisson: whether each step draws every example by itself, with the probability B / n, as the
        accounting of differential privacy supposes, rather than every example once an epoch.
    """

    grad_fn: GradFn
    optimizer: optax.GradientTransformation
    epochs: int = 1
    batch_size: int = 32
    schedule: Callable[[Array], Array] = constant
    features: Callable[[Params, Examples, Key], Array] | None = None
    poisson: bool = False


def _shuffle(mask: Array, key: Key) -> Array:
    """A random order of the real examples, followed by the padding: int32 [N]."""
    return jnp.argsort(_draws(mask, key))


def _draws(mask: Array, key: Key) -> Array:
    """A number in [0, 1) for each real example, and 2 for padding: float32 [N].

    Each position draws its own, so that more padding at the end leaves the others' alone.
    """

    def draw(position: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, position))

    return jnp.where(mask, jax.vmap(draw)(jnp.arange(mask.shape[0])), 2.0)


def _batches(mask: Array, batch_size: int, epochs: int, key: Key) -> tuple[Array, Array, Key]:
    """Indices [S, B], which of them are real [S, B] and a key [S] for each of the S steps."""
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


# At most the probability that a Poisson batch is larger than its room. Of delta each step
# takes this e^epsilon times, which ends epsilon at about 30. With 1e-16 it would end at 13, for six
# sevenths of the room.
POISSON_TAIL = 1e-24


def poisson_room(batch_size: int, examples: int) -> int:
    """How many examples a Poisson batch has room for: a multiple of 8, or all there are.

    How many are drawn is binomial, and beyond its mean + 1 less likely than by the Poisson
    distribution (Anderson & Samuels, 1967), whose tail is below `POISSON_TAIL`.

    Args:
        batch_size: B, how many are expected.
        examples: N.
    """

    def tail(room: int) -> float:
        numbers = range(room + 1, 4 * room + 100)
        logs = (n * math.log(batch_size) - batch_size - math.lgamma(n + 1) for n in numbers)
        return math.fsum(math.exp(log) for log in logs)

    room = batch_size + 8 + -batch_size % 8
    while room < examples and tail(room) >= POISSON_TAIL:
        room += 8
    return min(room, examples)


def _poisson_batches(
    mask: Array, batch_size: int, epochs: int, key: Key
) -> tuple[Array, Array, Key, Array]:
    """As `_steps`: each has every real example with the probability B / n, independently.

    What is beyond the room of a batch is left out, at random.
    """
    examples = mask.shape[0]
    size = min(batch_size or examples, examples)
    steps, room = -(-examples // size), poisson_room(size, examples)
    real = jnp.sum(mask, dtype=jnp.int32)
    probability = size / jnp.maximum(real, 1).astype(jnp.float32)  # 1 and more is always

    def batch(place: tuple[Array, Array]) -> tuple[Array, Array, Key, Array]:
        one_key = jax.random.fold_in(jax.random.fold_in(key, place[0]), place[1])
        draw_key, step_key = jax.random.split(one_key)
        draws = _draws(mask, draw_key)
        chosen = mask & (draws < probability)
        order = jnp.argsort(jnp.where(chosen, draws, 2.0))[:room]
        return order, chosen[order], step_key, place[1] * size < real

    places = jnp.repeat(jnp.arange(epochs), steps), jnp.tile(jnp.arange(steps), epochs)
    batches: tuple[Array, Array, Key, Array] = jax.lax.map(batch, places)
    return batches


def _steps(training: LocalTraining, mask: Array, key: Key) -> tuple[Array, Array, Key, Array]:
    """Indices [S, B], which are real [S, B], a key [S], and whether it is taken [S], of S steps."""
    if training.poisson:
        return _poisson_batches(mask, training.batch_size, training.epochs, key)
    index, real, keys = _batches(mask, training.batch_size, training.epochs, key)
    return index, real, keys, jnp.any(real, axis=1)


def train(
    training: LocalTraining,
    params: Params,
    examples: Examples,
    key: Key,
    round: Array,
    *,
    gradient_offset: Params | None = None,
) -> tuple[Params, Metrics]:
    """`go_on` with an optimizer that starts anew: the trained parameters and the sums."""
    start = training.optimizer.init(params)
    trained, _, metrics = go_on(
        training, params, start, examples, key, round, gradient_offset=gradient_offset
    )
    return trained, metrics


def go_on(
    training: LocalTraining,
    params: Params,
    optimizer_state: optax.OptState,
    examples: Examples,
    key: Key,
    round: Array,
    *,
    gradient_offset: Params | None = None,
) -> tuple[Params, optax.OptState, Metrics]:
    """Train on one client's examples, starting from `params`.

    Every example is seen once an epoch, in a new order; with `training.poisson` each step draws
    anew, ceil(n / B) times an epoch. A step beyond the client's examples changes
    nothing (neither momentum nor weight decay moves the parameters) and, where clients run one
    after the other, costs nothing: the padding that brings a small client to the size of a large
    one does not count.

    Args:
        training: how.
        params: where to start.
        optimizer_state: what `training.optimizer` remembers of the steps before.
        examples: the client's, ``[N]``, padding at the end.
        key: consumed.
        round: int32 [], for the schedule.
        gradient_offset: added to every gradient, like `params` (what SCAFFOLD needs).

    Returns:
        The trained parameters, what the optimizer remembers, and the sums of `training.grad_fn`
        over all steps, with "steps", the number of steps that were taken.
    """
    factor = training.schedule(round)

    @jax.jit  # traced once, for its shapes and for the step itself
    def move(
        carry: tuple[Params, optax.OptState], batch: tuple[Array, Array, Key, Array]
    ) -> tuple[tuple[Params, optax.OptState], Metrics]:
        index, real, step_key, _ = batch
        chosen = Examples(examples.image[index], examples.label[index], real)
        gradient, metrics = training.grad_fn(carry[0], chosen, step_key)
        if gradient_offset is not None:
            gradient = jax.tree.map(jnp.add, gradient, gradient_offset)
        updates, state = training.optimizer.update(gradient, carry[1], carry[0])
        updates = jax.tree.map(lambda leaf: leaf * jnp.asarray(factor, leaf.dtype), updates)
        return (optax.apply_updates(carry[0], updates), state), metrics

    def step(
        carry: tuple[Params, optax.OptState], batch: tuple[Array, Array, Key, Array]
    ) -> tuple[tuple[Params, optax.OptState], Metrics]:
        def stay(
            carry: tuple[Params, optax.OptState], batch: tuple[Array, Array, Key, Array]
        ) -> tuple[tuple[Params, optax.OptState], Metrics]:
            _, metrics = jax.eval_shape(move, carry, batch)
            return carry, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), metrics)

        active = batch[3]
        # Under `vmap` both are computed and one is chosen.
        carry, metrics = jax.lax.cond(active, move, stay, carry, batch)
        return carry, {**metrics, "steps": active.astype(jnp.float32)}

    steps = _steps(training, examples.mask, key)
    (trained, state), metrics = jax.lax.scan(step, (params, optimizer_state), steps)
    return trained, state, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)


def mean_loss(training: LocalTraining, params: Params, examples: Examples, key: Key) -> Array:
    """The mean loss of `params` on one client's examples, as training sees them: float32 [].

    Args:
        training: how.
        params: of the model.
        examples: the client's, ``[N]``, padding at the end; without any the loss is 0.
        key: consumed, for random changes of the images.
    """

    def step(sums: Array, batch: tuple[Array, Array, Key]) -> tuple[Array, None]:
        index, real, step_key = batch
        chosen = Examples(examples.image[index], examples.label[index], real)
        metrics = training.grad_fn(params, chosen, step_key)[1]
        return sums + jnp.stack([metrics["loss"], metrics["count"]]), None

    steps = _batches(examples.mask, training.batch_size, 1, key)
    loss, count = jax.lax.scan(step, jnp.zeros(2), steps)[0]
    mean: Array = loss / jnp.maximum(count, 1)
    return mean
