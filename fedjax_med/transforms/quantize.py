"""Unbiased stochastic rounding of each value to one of a few levels.

Alistarh et al., NeurIPS 2017, "QSGD"; with levels between a leaf's least and largest value and with
the rotation as in Suresh et al., ICML 2017, "Distributed Mean Estimation with Limited
Communication".
"""

import math

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import UNCHANGED, ClientInfo, MessageTransform, State
from fedjax_med.core.payload import SEED_BITS, Payload, uncompressed
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError

_SCALES = 64  # bits of a leaf's least and largest value, both float32


def hadamard(values: Array) -> Array:
    """Apply the Walsh-Hadamard transform, orthonormal and self-inverse: [P] -> [P], P = 2^n."""
    size = values.shape[0]
    if size == 1:
        return values

    def step(_: Array, values: Array) -> Array:
        first, second = values.reshape(2, size // 2)
        return jnp.stack([first + second, first - second], axis=1).reshape(size)

    # The same step moves each bit of the index to the top in turn.
    summed: Array = jax.lax.fori_loop(0, size.bit_length() - 1, step, values)
    return summed / math.sqrt(size)


def padded(size: int) -> int:
    """Compute the least power of two that is at least `size`."""
    return 1 << (size - 1).bit_length()


def _round(values: Array, bits: int, sent: Array, key: Key) -> Array:
    """Round `values` [V] at random to the level below or above, where `sent`, bool [V], is true."""
    low = jnp.min(values, where=sent, initial=jnp.inf)
    high = jnp.max(values, where=sent, initial=-jnp.inf)
    top = 2**bits - 1
    step = jnp.where(high > low, (high - low) / top, 1)
    scaled = jnp.clip((values - low) / step, 0, top)
    level = jnp.floor(scaled)
    up = jax.random.uniform(key, values.shape) < scaled - level
    return jnp.where(sent, low + (level + up) * step, values)


def _rounded(leaf: Array, bits: int, sparse: bool, key: Key) -> Array:
    values = leaf.astype(jnp.float32).reshape(-1)
    return _round(values, bits, values != 0 if sparse else jnp.ones(values.shape, bool), key)


def _rotated(leaf: Array, bits: int, key: Key) -> Array:
    """Round as `_rounded` does, but in a randomly rotated basis."""
    round_key, sign_key = jax.random.split(key)
    size = padded(leaf.size)
    signs = jax.random.rademacher(sign_key, (size,), jnp.float32)
    values = jnp.pad(leaf.astype(jnp.float32).reshape(-1), (0, size - leaf.size))
    values = _round(hadamard(values * signs), bits, jnp.ones(size, bool), round_key)
    return (hadamard(values) * signs)[: leaf.size]


def _check(bits: int, rotate: bool, sparse: bool) -> None:
    if bits not in (*range(1, 17), 32):
        raise UserError(
            f"expected transform quantize to have bits in 1..16 or 32, got bits={bits}."
        )
    if rotate and sparse:
        raise UserError(
            "expected transform quantize to have either rotate or sparse, got both: what is "
            "rotated has no zeros."
        )


def build(*, bits: int = 8, rotate: bool = False, sparse: bool = False) -> MessageTransform:
    """Build the transform that rounds each leaf to 2**bits levels from its least to largest value.

    Args:
        bits: bits per value, 1 to 16; with 32 messages stay unchanged.
        rotate: whether a leaf is rotated at random before rounding and back afterwards, which
            reduces the error if few values are large. For this the leaf is padded with zeros to a
            power of two, and sent whole, even after a transform that sends few values.
        sparse: whether zeros are not sent and stay zero: for use after a transform that sends few
            values (``top_k``, ``random_k``), whose zeros would otherwise be rounded and sent.

    Raises:
        UserError: `bits` is out of range, or both `rotate` and `sparse` are set.
    """
    _check(bits, rotate, sparse)
    if bits == 32:
        return UNCHANGED

    def one(message: Message, place: Array, key: Key) -> Message:
        leaves, tree = jax.tree.flatten(message)
        keys = jax.random.split(jax.random.fold_in(key, place), len(leaves))
        new = []
        for leaf, own in zip(leaves, keys, strict=True):
            flat = _rotated(leaf, bits, own) if rotate else _rounded(leaf, bits, sparse, own)
            new.append(flat.reshape(leaf.shape).astype(leaf.dtype))
        return jax.tree.unflatten(tree, new)

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        return jax.vmap(one, in_axes=(0, 0, None))(messages, client_info.client, key), state

    def payload(message: Message, before: Payload) -> Payload:
        sizes = [leaf.size for leaf in jax.tree.leaves(message)]
        scales = _SCALES * len(sizes)
        if sparse:
            before = uncompressed(message) if before.rotated else before
            return Payload(before.values, bits, before.extra + scales)
        # All values are sent, so the positions of an earlier sparse transform are not.
        if rotate:
            return Payload(sum(padded(size) for size in sizes), bits, scales + SEED_BITS, True)
        return Payload(sum(sizes), bits, scales)

    return MessageTransform(lambda message, num_clients: (), update, payload, across=False)
