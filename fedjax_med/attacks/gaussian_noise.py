"""Gaussian attack: hostile clients send noise (Blanchard et al., NeurIPS 2017, against Krum)."""

import jax
import jax.numpy as jnp

from fedjax_med.core.faults import Attack, replace_where
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError


def build(
    num_classes: int,
    *,
    clients: tuple[int, ...] = (0,),
    std: float = 1.0,
    add: bool = False,
) -> Attack:
    """Build the attack: hostile clients send Gaussian noise of mean zero.

    Args:
        num_classes: not used by this attack.
        clients: ids of the hostile clients.
        std: standard deviation of each value, in the units of the message; the paper uses 200.
        add: whether the noise is added to the client's message instead of replacing it.

    Raises:
        UserError: `std` is not positive.
    """
    del num_classes
    if not std > 0:
        raise UserError(f"expected attack gaussian_noise to have std > 0, got std={std}.")

    def messages(messages: Message, hostile: Array, weight: Array, key: Key) -> Message:
        del weight  # each message separately
        leaves, structure = jax.tree.flatten(messages)
        keys = jax.random.split(key, len(leaves))
        noise = [
            std * jax.random.normal(key, leaf.shape) + (leaf if add else jnp.zeros_like(leaf))
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return replace_where(hostile, jax.tree.unflatten(structure, noise), messages)

    return Attack(tuple(clients), messages=messages)
