"""Backdoor attack: hostile clients teach the model to predict one class where it sees a square.

Gu, Dolan-Gavitt & Garg, 2017, "BadNets"; in federated learning Bagdasaryan et al., AISTATS 2020.
On images without the square the model stays good, so its accuracy does not reveal the attack.
"""

import jax
import jax.numpy as jnp

from fedjax_med.core.faults import Attack
from fedjax_med.core.trees import broadcast_rows
from fedjax_med.core.types import Array, Examples, Key
from fedjax_med.errors import UserError


def _trigger(images: Array, size: int) -> Array:
    """Add a white square in the lower right corner of `images` uint8 [..., H, W, ch]."""
    if images.dtype != jnp.uint8:
        raise UserError(
            f"expected attack backdoor to get images (uint8), got {images.dtype} features of a "
            "model's frozen part: set --config.model.options.frozen_blocks=0."
        )
    if size > min(images.shape[-3:-1]):
        height, width = images.shape[-3:-1]
        raise UserError(
            f"expected attack backdoor to have a size within images of {height} x {width} pixels, "
            f"got size={size}."
        )
    return images.at[..., -size:, -size:, :].set(255)


def build(
    num_classes: int,
    *,
    clients: tuple[int, ...] = (0,),
    target: int = 0,
    size: int = 4,
    share: float = 0.5,
) -> Attack:
    """Build the attack: random examples of hostile clients get the square and the label `target`.

    Args:
        num_classes: K.
        clients: ids of the hostile clients.
        target: the label.
        size: the square's side, in pixels.
        share: in (0, 1], the share of the client's examples, drawn in each round.

    Raises:
        UserError: An option is out of its range; while tracing, `size` is larger than the images,
            or the inputs are features of a frozen part instead.
    """
    if not 0 <= target < num_classes or size < 1 or not 0 < share <= 1:
        raise UserError(
            f"expected attack backdoor to have target in 0 to {num_classes - 1}, size >= 1 and "
            f"share in (0, 1], got target={target}, size={size}, share={share}."
        )

    def examples(examples: Examples, key: Key) -> Examples:
        image, label, mask = examples
        # One draw per position, so that more padding at the end changes nothing.
        positions = jnp.arange(mask.shape[0])
        draws = jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place)))(
            positions
        )
        rank = jnp.argsort(jnp.argsort(jnp.where(mask, draws, 2.0)))
        chosen = rank < jnp.round(share * jnp.sum(mask))  # padding ranks behind all real examples
        shown = jnp.where(broadcast_rows(chosen, image), _trigger(image, size), image)
        return Examples(shown, jnp.where(chosen, target, label), mask)

    def trigger(images: Array) -> Array:
        return _trigger(images, size)

    return Attack(tuple(clients), examples=examples, trigger=trigger, target=target)
