"""Size of a message on the network."""

from typing import Any, NamedTuple

import jax

SEED_BITS = 64  # of a random key, if it is sent


class Payload(NamedTuple):
    """Size of one client's message on the network."""

    values: int  # how many numbers are sent
    bits: float  # per number
    extra: int = 0  # additional bits: positions, scales, seeds
    rotated: bool = False  # whether the numbers are a rotation of the values, not the values

    @property
    def num_bytes(self) -> int:
        """Compute the size in bytes, rounded up."""
        return int(-(-(self.values * self.bits + self.extra) // 8))


def uncompressed(message: Any) -> Payload:
    """Compute the payload of `message` (arrays or shapes) without compression."""
    leaves = jax.tree.leaves(message)
    values = sum(leaf.size for leaf in leaves)
    bits = sum(8 * leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return Payload(values, bits / max(values, 1))
