"""Masked losses and their gradient functions."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedjax_med.client import augmentation
from fedjax_med.client.mixup import Mix
from fedjax_med.core.model import Model
from fedjax_med.core.trees import take, zeros_like_shapes
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params
from fedjax_med.errors import UserError


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
    prepare: Callable[[Array, Key], Array] | None = None,
    class_weights: Array | None = None,
    label_smoothing: float = 0.0,
    micro_batch: int = 0,
    adjustment: Array | None = None,
    focal: float = 0.0,
    mix: Mix | None = None,
    *,
    num_classes: int = 0,
) -> GradFn:
    """Build the gradient of the mean weighted cross-entropy over a batch's real examples.

    Args:
        model: gives logits [B, K].
        prepare: maps uint8 images and a key to model input (`fedjax_med.client.augmentation`);
            None: normalises the images as the model says.
        class_weights: float [K], the weight of each class's examples; None: all weigh 1.
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
        num_classes: K, needed only without `class_weights`.

    Returns:
        A `GradFn` whose metrics are those of `counts`: the plain cross-entropy, without weights and
        smoothing. Padding has no effect; the gradient of a batch of padding alone is zero.
    """
    weights = _equal_weights(num_classes) if class_weights is None else jnp.asarray(class_weights)
    prepare = prepare or functools.partial(_normalised, model)

    def objective(params: Params, prepared: _Prepared, key: Key) -> tuple[Array, Metrics]:
        """Compute the summed loss and the metrics."""
        logits = model.apply(params, prepared.image, key)
        if logits.shape != prepared.target.shape:
            raise UserError(
                f"expected logits of {prepared.target.shape[1]} classes for each of "
                f"{logits.shape[0]} images, as num_classes or class_weights say, got an array of "
                f"shape {list(logits.shape)} from the model."
            )
        adjusted = logits if adjustment is None else logits + adjustment[None]
        target = prepared.target
        if focal:
            target = target * (1.0 - jax.nn.softmax(adjusted)) ** focal
        loss = optax.softmax_cross_entropy(adjusted, target) * prepared.weight
        sums = counts(logits, prepared.label, prepared.mask)
        return jnp.sum(jnp.where(prepared.mask, loss, 0.0)), sums

    def gradient(params: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
        prepare_key, model_key = keys(key)
        if not hasattr(batch.label, "ndim"):
            raise UserError("expected labels int [N], one array, got a tree of arrays.")
        if batch.label.ndim != 1 or not jnp.issubdtype(batch.label.dtype, jnp.integer):
            raise _no_classes(batch.label)
        image = prepare(batch.image, prepare_key)
        target = jax.nn.one_hot(batch.label, weights.shape[0])
        target = optax.smooth_labels(target, label_smoothing)
        weight = weights[batch.label]
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


def _no_classes(labels: Array) -> UserError:
    """Build the error of `labels` that are no classes [B], with the remedy for their shape."""
    remedy = "labels.astype(int), if they are whole numbers"
    if labels.ndim == 2 and labels.shape[1] > 1:
        remedy = "labels.argmax(-1), if they are one-hot"
    elif labels.ndim > 1:
        remedy = "labels.reshape(len(labels)).astype(int), if each has one class"
    return UserError(
        f"expected labels int [N], a class from 0 for each image, got {labels.dtype} "
        f"[{', '.join(map(str, ['N', *labels.shape[1:]]))}]: {remedy}."
    )


def _equal_weights(num_classes: int) -> Array:
    if num_classes < 1:
        raise UserError(
            "cross_entropy needs the number of classes: give num_classes=... or class_weights=..."
        )
    return jnp.ones(num_classes)


def _normalised(model: Model, images: Array, key: Key) -> Array:
    """Normalise images as the model says, without random changes."""
    del key
    augmentation.check_images(images)
    return augmentation.normalise(images, model.mean, model.std, model.colour_constancy)


def mean_gradient(loss: Callable[[Params, Any, Any, Key], Array]) -> GradFn:
    """Build the gradient of the mean of `loss` over a batch's real examples, for any task.

    Args:
        loss: ``(params, inputs [B, ...], labels [B, ...], key) -> float [B]``, each example's own
            loss; inputs and labels are the pytrees that `fedjax_med.data.from_arrays` was given.

    Returns:
        A `GradFn` whose metrics are the sums "loss" and "count". Padding has no effect.
    """

    def objective(params: Params, batch: Examples, key: Key) -> tuple[Array, Metrics]:
        # Padding may hold anything, and 0 * NaN is NaN: a real example stands in for it.
        real = jnp.where(batch.mask, jnp.arange(batch.mask.shape[0]), jnp.argmax(batch.mask))
        losses = loss(params, take(batch.image, real), take(batch.label, real), key)
        if not hasattr(losses, "shape"):
            raise UserError(
                f"expected the loss of each of {batch.mask.shape[0]} examples, one array, got a "
                f"{type(losses).__name__}: return the losses alone, without auxiliary values."
            )
        if losses.shape != batch.mask.shape:
            raise UserError(
                f"expected the loss of each of {batch.mask.shape[0]} examples, an array of shape "
                f"{list(batch.mask.shape)}, got {list(losses.shape)}: compare the shapes of the "
                "prediction and the labels, and take no mean."
            )
        count = jnp.sum(batch.mask, dtype=jnp.float32)
        total = jnp.sum(losses, where=batch.mask)
        return total / jnp.maximum(count, 1), {"loss": total, "count": count}

    return jax.grad(objective, has_aux=True)


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
