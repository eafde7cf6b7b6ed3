"""Local training of one client: a scan over local steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_med.client.batching import epoch_batches, poisson_batches
from fedjax_med.client.optimizers import StepWeight, constant
from fedjax_med.core.trees import take, zeros_like_shapes
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params
from fedjax_med.errors import UserError


class LocalTrainer(NamedTuple):
    """Settings of local training.

    Attributes:
        grad_fn: the gradient of the loss on a batch.
        optimizer: any optax optimizer; its state never leaves the client.
        epochs: passes over the client's examples in one round.
        batch_size: B; 0: all examples in one step.
        schedule: maps the round to a factor of the optimizer's updates.
        features: ``(params, examples [B], key) -> float [B, D]``, the model's features of a batch
            before its classifier, from the same augmented images as `grad_fn` sees with that key.
        poisson: whether each step draws every example independently, with the probability B / n, as
            the accounting of differential privacy assumes, instead of each example once per epoch.
        step_weight: maps the number of local steps to their total weight, for algorithms that
            normalise by it (FedNova): `fedjax_med.client.sgd_step_weight`; None: unknown.
    """

    grad_fn: GradFn
    optimizer: optax.GradientTransformation
    epochs: int = 1
    batch_size: int = 32
    schedule: Callable[[Array], Array] = constant
    features: Callable[[Params, Examples, Key], Array] | None = None
    poisson: bool = False
    step_weight: StepWeight | None = None


def _steps(training: LocalTrainer, mask: Array, key: Key) -> tuple[Array, Array, Key, Array]:
    """Draw S steps: indices [S, B], whether they are real [S, B], keys [S], whether taken [S]."""
    whole = all(hasattr(one, "__index__") for one in (training.epochs, training.batch_size))
    if not whole or training.epochs < 1 or training.batch_size < 0:
        raise UserError(
            "expected local training with whole numbers epochs >= 1 and batch_size >= 0 (0: all "
            "examples), got "
            f"epochs={training.epochs!r} and batch_size={training.batch_size!r}."
        )
    _check_private(training)
    if training.poisson:
        return poisson_batches(mask, training.batch_size, training.epochs, key)
    index, real, keys = epoch_batches(mask, training.batch_size, training.epochs, key)
    return index, real, keys, jnp.any(real, axis=1)


def _check_private(training: LocalTrainer) -> None:
    """Refuse batches for which the gradients of `training` are not private as accounted."""
    expected = getattr(training.grad_fn, "expected_batch", None)
    if expected is None or (training.poisson and training.batch_size == expected):
        return
    raise UserError(
        "expected private gradients with Poisson batches of the size that they were built for, "
        f"LocalTrainer(batch_size={expected}, poisson=True), got batch_size={training.batch_size} "
        f"and poisson={training.poisson}: no account holds for other batches."
    )


def train(
    training: LocalTrainer,
    params: Params,
    examples: Examples,
    key: Key,
    round: Array,
    *,
    gradient_offset: Params | None = None,
) -> tuple[Params, Metrics]:
    """Train from a fresh optimizer state; return the trained parameters and the summed metrics."""
    start = training.optimizer.init(params)
    trained, _, metrics = resume_training(
        training, params, start, examples, key, round, gradient_offset=gradient_offset
    )
    return trained, metrics


def resume_training(
    training: LocalTrainer,
    params: Params,
    optimizer_state: optax.OptState,
    examples: Examples,
    key: Key,
    round: Array,
    *,
    gradient_offset: Params | None = None,
) -> tuple[Params, optax.OptState, Metrics]:
    """Train on one client's examples, starting from `params`.

    Every example is seen once per epoch, in a new order; with `training.poisson` each step draws
    anew, ceil(n / B) times per epoch. A step beyond the client's examples changes nothing (neither
    momentum nor weight decay moves the parameters) and, if clients run one after the other, costs
    nothing: padding a small client to the size of a large one adds no training.

    Args:
        training: the settings.
        params: the initial parameters.
        optimizer_state: the state of `training.optimizer` after earlier steps.
        examples: the client's, ``[N]``, padding at the end.
        key: consumed.
        round: int32 [], for the schedule.
        gradient_offset: added to every gradient, with the structure of `params` (for SCAFFOLD).

    Returns:
        The trained parameters, the optimizer's state, and the metrics of `training.grad_fn` summed
        over all steps, with "steps", the number of steps taken.
    """
    factor = training.schedule(round)

    @jax.jit  # traced once for both its shapes and the step itself
    def move(
        carry: tuple[Params, optax.OptState], batch: tuple[Array, Array, Key, Array]
    ) -> tuple[tuple[Params, optax.OptState], Metrics]:
        index, real, step_key, _ = batch
        chosen = take(examples, index)._replace(mask=real)
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
            return carry, zeros_like_shapes(metrics)

        active = batch[3]
        # Under `vmap` both branches are computed and one is selected.
        carry, metrics = jax.lax.cond(active, move, stay, carry, batch)
        return carry, {**metrics, "steps": active.astype(jnp.float32)}

    steps = _steps(training, examples.mask, key)
    (trained, state), metrics = jax.lax.scan(step, (params, optimizer_state), steps)
    return trained, state, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)


def mean_loss(training: LocalTrainer, params: Params, examples: Examples, key: Key) -> Array:
    """Compute the mean loss of `params` on a client's examples, seen as in training: float32 [].

    Args:
        training: the settings.
        params: the model's parameters.
        examples: the client's, ``[N]``, padding at the end; the loss of no examples is 0.
        key: consumed, for random changes of the images.
    """

    def step(sums: Array, batch: tuple[Array, Array, Key]) -> tuple[Array, None]:
        index, real, step_key = batch
        chosen = take(examples, index)._replace(mask=real)
        metrics = training.grad_fn(params, chosen, step_key)[1]
        return sums + jnp.stack([metrics["loss"], metrics["count"]]), None

    steps = epoch_batches(examples.mask, training.batch_size, 1, key)
    loss, count = jax.lax.scan(step, jnp.zeros(2), steps)[0]
    mean: Array = loss / jnp.maximum(count, 1)
    return mean
