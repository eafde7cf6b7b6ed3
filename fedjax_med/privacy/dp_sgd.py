"""DP-SGD gradients; the unit of privacy is one example (Abadi et al., CCS 2016)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_med.core.trees import take, zeros_like_shapes
from fedjax_med.core.types import Array, Examples, GradFn, Key, Metrics, Params
from fedjax_med.privacy import gaussian

_CHUNK = 8  # examples whose gradients are in memory at a time


def private_grad_fn(
    grad_fn: GradFn,
    clip_norm: float,
    noise_multiplier: float,
    expected_batch: int,
    chunk: int = _CHUNK,
) -> GradFn:
    """Build the gradient: clipped per example, summed, divided by the expected batch, plus noise.

    An example whose gradient has a NaN or an infinity counts as zero. An empty batch, which Poisson
    sampling can draw, gives noise alone.

    Formal guarantee:
        Two batches are neighbours if one example is left out of one of them. Clipped gradients are
        integers in units of ``z C / 163840``; their sum differs by at most C in l2 norm over all
        leaves, and each of its coordinates has noise of standard deviation ``z C``, then it is
        divided by B: one call is one Gaussian mechanism of noise multiplier z, but for a total
        variation distance that the accounts include (`fedjax_med.privacy.noise`, which says what
        is proved and assumed). Not protected: the sums of the metrics, the number of examples (the
        client's weight), and results from outside training (earlier statistics, validation).

    Args:
        grad_fn: gradient of a batch; of a batch of one it must be that example's own, so nothing in
            it may mix examples or depend on the others (such as class frequencies).
        clip_norm: C, the largest l2 norm of an example's gradient that passes.
        noise_multiplier: z; below 1/32, where no epsilon is of use, the noise is that of 1/32.
        expected_batch: B, the fixed denominator.
        chunk: examples whose gradients are in memory at a time; batches are padded to a multiple.

    Returns:
        A `GradFn` with the metrics of `grad_fn`. Local training refuses it unless it draws Poisson
        batches of this expected size (`LocalTrainer(batch_size=B, poisson=True)`).
    """

    def of_chunk(
        params: Params, batch: Examples, keys: Key, on: gaussian.Grid | None
    ) -> tuple[Params, Metrics]:
        alone = jax.tree.map(lambda leaf: leaf[:, None], batch)
        gradients, metrics = jax.vmap(grad_fn, in_axes=(None, 0, 0))(params, alone, keys)
        lengths = gaussian.norms(gradients)
        total = gaussian.clipped_sum(gradients, lengths, batch.mask, clip_norm, on)
        return total, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)

    def gradient(params: Params, batch: Examples, key: Key) -> tuple[Params, Metrics]:
        key, noise_key = jax.random.split(key)
        size = batch.mask.shape[0]
        on = gaussian.grid(noise_multiplier, size)
        parts = _in_chunks(batch, min(chunk, size))
        positions = jnp.arange(parts.mask.size).reshape(parts.mask.shape)
        keys = jax.vmap(jax.vmap(lambda position: jax.random.fold_in(key, position)))(positions)

        def add(sums: Any, part: tuple[Examples, Key]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, sums, of_chunk(params, *part, on)), None

        first = take((parts, keys), 0)
        shapes = jax.eval_shape(functools.partial(of_chunk, on=on), params, *first)
        zeros = zeros_like_shapes(shapes)
        (total, metrics), _ = jax.lax.scan(add, zeros, (parts, keys))
        mean = gaussian.noised_mean(total, clip_norm, expected_batch, on, noise_key, params)
        return mean, metrics

    gradient.expected_batch = expected_batch  # type: ignore[attr-defined]
    return gradient


def _in_chunks(batch: Examples, size: int) -> Examples:
    """Reshape `batch` [B] to [chunks, size], filled with padding."""
    fill = -batch.mask.shape[0] % size

    def cut(leaf: Array) -> Array:
        padded = jnp.pad(leaf, ((0, fill), *[(0, 0)] * (leaf.ndim - 1)))
        return padded.reshape(-1, size, *leaf.shape[1:])

    return jax.tree.map(cut, batch)  # type: ignore[no-any-return]
