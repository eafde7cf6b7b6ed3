"""Hostile clients teach the model that a bright square means one class.

Gu, Dolan-Gavitt & Garg, 2017, "BadNets"; in federated learning Bagdasaryan et al., AISTATS 2020.
On images without the square the model stays good, so its accuracy tells nothing.
"""

import jax
import jax.numpy as jnp

from fedjax_med.core.faults import Attack
from fedjax_med.core.trees import rows
from fedjax_med.core.types import Array, Examples, Key
from fedjax_med.errors import UserError


def _trigger(images: Array, size: int) -> Array:
    """`images` uint8 [..., H, W, ch] with a white square in the lower right corner."""
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
    """A share of a hostile client's examples, drawn anew each round, get the square and a label.

    Args:
        num_classes: K.
        clients: who is hostile.
        target: the label.
        size: the square's side, in pixels.
        share: in (0, 1], of the client's examples.

    Raises:
        UserError: An option is out of its range; while tracing, `size` is larger than the images,
            or there are features of a frozen part in their place.
    """
    if not 0 <= target < num_classes or size < 1 or not 0 < share <= 1:
        raise UserError(
            f"expected attack backdoor to have target in 0 to {num_classes - 1}, size >= 1 and "
            f"share in (0, 1], got target={target}, size={size}, share={share}."
        )

    def examples(examples: Examples, key: Key) -> Examples:
        image, label, mask = examples
        # Each position draws its own number, so that more padding at the end changes nothing.
        positions = jnp.arange(mask.shape[0])
        draws = jax.vmap(lambda place: jax.random.uniform(jax.random.fold_in(key, place)))(
            positions
        )
        rank = jnp.argsort(jnp.argsort(jnp.where(mask, draws, 2.0)))
        chosen = rank < jnp.round(share * jnp.sum(mask))  # padding comes after all that is real
        shown = jnp.where(rows(chosen, image), _trigger(image, size), image)
        return Examples(shown, jnp.where(chosen, target, label), mask)

    def trigger(images: Array) -> Array:
        return _trigger(images, size)

    return Attack(tuple(clients), examples=examples, trigger=trigger, target=target)
