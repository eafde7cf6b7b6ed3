"""Masked losses and their gradient functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedjax_med.client.mixup import Mix
from fedjax_med.core.model import Model
from fedjax_med.core.trees import take, zeros_like_shapes
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params


def class_balanced_weights(counts: ArrayLike, beta: float) -> Array:
    """Compute weights by the effective number of examples (Cui et al., CVPR 2019), with mean 1.

    Args:
        counts: int or float [K], the training examples of each class over all clients.
        beta: in [0, 1); 0 weighs all examples equally, values near 1 all classes equally.

    Returns:
        float32 [K], such that the mean over the examples is 1; 0 for a class without examples.
    """
    examples = jnp.asarray(counts, jnp.float32)
    present = examples > 0
    # expm1 and log1p keep the digits that 1 - beta**n loses for beta near 1.
    effective = -jnp.expm1(examples * jnp.log1p(beta - 1.0)) if beta else jnp.ones_like(examples)
    weights = jnp.where(present, 1.0 / jnp.where(present, effective, 1.0), 0.0)
    return weights * jnp.sum(examples) / jnp.maximum(jnp.sum(weights * examples), 1e-12)


def log_prior(counts: ArrayLike) -> Array:
    """Compute the logarithm of each class's share of the examples.

    Args:
        counts: int or float [K], the training examples of each class over all clients.

    Returns:
        float32 [K]; 0 for a class without examples, as if all were of that class, so that a model
        that never sees it (a single hospital's) learns never to predict it.
    """
    examples = jnp.asarray(counts, jnp.float32)
    total = jnp.sum(examples)
    return jnp.log(jnp.where(examples > 0, examples, total) / total)


def counts(logits: Array, labels: Array, mask: Array) -> Metrics:
    """Sum loss and accuracy over a batch's real examples; sums of two batches can be added.

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


def keys(key: Key) -> tuple[Key, Key]:
    """Split a step's key into one for the augmentation of the images and one for the model."""
    prepare_key, model_key = jax.random.split(key)
    return prepare_key, model_key


class _Prepared(NamedTuple):
    """A batch prepared for the model."""

    image: Array  # float32 [B, H, W, ch]
    target: Array  # float32 [B, K]
    weight: Array  # float32 [B]
    label: Array  # int32 [B]
    mask: Array  # bool [B]


def cross_entropy(
    model: Model,
    prepare: Callable[[Array, Key], Array],
    class_weights: Array,
    label_smoothing: float = 0.0,
    micro_batch: int = 0,
    adjustment: Array | None = None,
    focal: float = 0.0,
    mix: Mix | None = None,
) -> GradFn:
    """Build the gradient of the mean weighted cross-entropy over a batch's real examples.

    Args:
        model: gives logits [B, K].
        prepare: maps uint8 images and a key to model input (`fedjax_med.client.augmentation`).
        class_weights: float [K], the weight of each class's examples.
        label_smoothing: the probability mass spread evenly over all classes (Szegedy et al., 2016).
        micro_batch: images that the model sees at a time; 0: all. The gradients of the parts add up
            to the whole batch's, since no layer mixes images; the data of a part may stay in a
            CPU's cache (`fedjax_med.ops.micro_batch`).
        adjustment: float [K], added to the logits in the loss only: with tau times `log_prior` the
            model learns to tell the classes apart without regard to their frequencies (Menon et
            al., ICLR 2021, "Long-tail learning via logit adjustment").
        focal: gamma: a class's part of the loss is multiplied by (1 - its probability)^gamma, so
            that examples already learned count less (Lin et al., ICCV 2017).
        mix: changes the prepared batch and its targets as a whole (`fedjax_med.client.mixup`).

    Returns:
        A `GradFn` whose metrics are those of `counts`: the plain cross-entropy, without weights and
        smoothing. Padding has no effect; the gradient of a batch of padding alone is zero.
    """

    def objective(params: Params, prepared: _Prepared, key: Key) -> tuple[Array, Metrics]:
        """Compute the summed loss and the metrics."""
        logits = model.apply(params, prepared.image, key)
        adjusted = logits if adjustment is None else logits + adjustment[None]
        target = prepared.target
        if focal:
            target = target * (1.0 - jax.nn.softmax(adjusted)) ** focal
        loss = optax.softmax_cross_entropy(adjusted, target) * prepared.weight
        sums = counts(logits, prepared.label, prepared.mask)
        return jnp.sum(jnp.where(prepared.mask, loss, 0.0)), sums

    def gradient(params: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
        prepare_key, model_key = keys(key)
        image = prepare(batch.image, prepare_key)
        target = jax.nn.one_hot(batch.label, class_weights.shape[0])
        target = optax.smooth_labels(target, label_smoothing)
        weight = class_weights[batch.label]
        if mix is not None:
            # The loss is linear in the targets, so the class weights are mixed with them. `keys`
            # has already split the key into 0 and 1.
            mix_key = jax.random.fold_in(key, 2)
            image, target = mix(image, target * weight[:, None], batch.mask, mix_key)
            weight = jnp.ones_like(weight)
        whole = _Prepared(image, target, weight, batch.label, batch.mask)
        sums = _in_parts(jax.grad(objective, has_aux=True), micro_batch)(params, whole, model_key)
        return jax.tree.map(lambda leaf: leaf / jnp.maximum(sums[1]["count"], 1), sums[0]), sums[1]

    return gradient


def _in_parts(
    function: Callable[..., tuple[Params, Metrics]], size: int
) -> Callable[[Params, _Prepared, Key], tuple[Params, Metrics]]:
    """Apply `function`, which sums over examples, to `size` examples at a time; add the results."""

    def added(params: Params, whole: _Prepared, key: Key) -> tuple[Params, Metrics]:
        examples = whole.mask.shape[0]
        if not 0 < size < examples:
            return function(params, whole, key)
        number = -(-examples // size)

        def cut(leaf: Array) -> Array:  # the padding at the end is masked
            fill = ((0, number * size - examples), *[(0, 0)] * (leaf.ndim - 1))
            return jnp.pad(leaf, fill).reshape(number, size, *leaf.shape[1:])

        def step(sums: Any, part: tuple[Any, Array]) -> tuple[Any, None]:
            new = function(params, part[0], jax.random.fold_in(key, part[1]))
            return jax.tree.map(jnp.add, sums, new), None

        parts = jax.tree.map(cut, whole)
        shape = jax.eval_shape(function, params, take(parts, 0), key)
        zero = zeros_like_shapes(shape)
        sums: tuple[Params, Metrics] = jax.lax.scan(step, zero, (parts, jnp.arange(number)))[0]
        return sums

    return added
