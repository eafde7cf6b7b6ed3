"""Masked losses and the gradient functions made of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedjax_med.types import Array, Examples, GradFn, Key, Metrics, Model, Params


def class_balanced_weights(counts: ArrayLike, beta: float) -> Array:
    """Weights by the effective number of examples (Cui et al., CVPR 2019), with mean 1.

    Args:
        counts: int or float [K], the training examples of each class over all clients.
        beta: in [0, 1); 0 weighs all examples the same, towards 1 all classes the same.

    Returns:
        float32 [K], such that the mean over the examples is 1; 0 for a class without examples.
    """
    examples = jnp.asarray(counts, jnp.float32)
    present = examples > 0
    # expm1 and log1p keep the digits that 1 - beta**n loses for beta near 1.
    effective = -jnp.expm1(examples * jnp.log1p(beta - 1.0)) if beta else jnp.ones_like(examples)
    weights = jnp.where(present, 1.0 / jnp.where(present, effective, 1.0), 0.0)
    return weights * jnp.sum(examples) / jnp.maximum(jnp.sum(weights * examples), 1e-12)


def counts(logits: Array, labels: Array, mask: Array) -> Metrics:
    """Sums over the real examples of a batch; adding two results gives those of both batches.

    Args:
        logits: float ``[B, K]``; padding may hold anything, NaN included.
        labels: int32 ``[B]``, likewise.
        mask: bool ``[B]``; False is padding.

    Returns:
        float32 scalars ``loss`` (cross-entropy in nats), ``correct`` and ``count``.
    """
    # Padding is replaced before the arithmetic: 0 * NaN would be NaN, here and in a gradient.
    logits = jnp.where(mask[:, None], logits, 0).astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = jnp.argmax(logits, axis=-1) == labels
    return {
        "loss": jnp.sum(loss, where=mask),
        "correct": jnp.sum(correct, where=mask, dtype=jnp.float32),
        "count": jnp.sum(mask, dtype=jnp.float32),
    }


def cross_entropy(
    model: Model,
    prepare: Callable[[Array, Key], Array],
    class_weights: Array,
    label_smoothing: float = 0.0,
) -> GradFn:
    """The gradient of the mean weighted cross-entropy over a batch's real examples.

    Args:
        model: gives logits [B, K].
        prepare: uint8 images and a key to what the model takes (`fedjax_med.augment`).
        class_weights: float [K], the factor of each class's examples.
        label_smoothing: the probability mass spread evenly over all classes (Szegedy et al., 2016).

    Returns:
        A `GradFn` whose sums are those of `counts`: the plain cross-entropy,
        without weights and smoothing. Padding changes nothing; a batch of padding alone has
        gradient zero.
    """

    def objective(params: Params, batch: Examples, key: Key) -> tuple[Array, Metrics]:
        prepare_key, model_key = jax.random.split(key)
        logits = model.apply(params, prepare(batch.image, prepare_key), model_key)
        target = jax.nn.one_hot(batch.label, logits.shape[-1])
        target = optax.smooth_labels(target, label_smoothing)
        loss = optax.softmax_cross_entropy(logits, target) * class_weights[batch.label]
        mean = jnp.sum(jnp.where(batch.mask, loss, 0.0)) / jnp.maximum(jnp.sum(batch.mask), 1)
        return mean, counts(logits, batch.label, batch.mask)

    return jax.grad(objective, has_aux=True)
