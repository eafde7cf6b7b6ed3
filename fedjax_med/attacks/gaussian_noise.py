"""Hostile clients send noise (Blanchard et al., NeurIPS 2017, the Gaussian attack on Krum)."""

import jax
import jax.numpy as jnp

from fedjax_med.core.faults import Attack, instead
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(
    num_classes: int,
    *,
    clients: tuple[int, ...] = (0,),
    std: float = 1.0,
    add: bool = False,
) -> Attack:
    """Hostile clients send noise of mean zero in the place of what they learned.

    Args:
        num_classes: of the experiment, for which this attack has no use.
        clients: who is hostile.
        std: of each number, in the units of the message; the paper has 200.
        add: whether the noise is added to what they learned.

    Raises:
        UserError: `std` is not positive.
    """
    del num_classes
    if not std > 0:
        raise UserError(f"expected attack gaussian_noise to have std > 0, got std={std}.")

    def messages(messages: Message, hostile: Array, weight: Array, key: Key) -> Message:
        del weight  # each by itself
        leaves, structure = jax.tree.flatten(messages)
        keys = jax.random.split(key, len(leaves))
        noise = [
            std * jax.random.normal(key, leaf.shape) + (leaf if add else jnp.zeros_like(leaf))
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return instead(hostile, jax.tree.unflatten(structure, noise), messages)

    return Attack(tuple(clients), messages=messages)
