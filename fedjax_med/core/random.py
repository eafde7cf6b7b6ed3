"""Named random streams of a round, in one table so that no two share a number by accident."""

import enum
import hashlib

import jax
import jax.numpy as jnp

from fedjax_med.core.types import Key


class Stream(enum.IntEnum):
    """Numbers folded into a key, one for each kind of draw.

    The values determine the bits of every result: never change one, never use one twice. The keys
    of a round and of a client are also split, into 0 and 1, and epochs are folded into a client's
    key as 0, 1, 2, and so on.
    """

    # Of a round's key:
    COHORT = 2
    ATTACKERS = 3  # shared by the Byzantine clients
    # Of a client's key in a round:
    PRESENT = 101
    STRAGGLER = 102
    CORRUPTED = 103
    ATTACK = 104
    LOSS = 105  # loss of the global model, for loss-weighted aggregators
    CLUSTER = 106  # the choice of a cluster (IFCA)
    BODY = 106  # FedRep's steps on the body: the same stream as CLUSTER, never in one algorithm


def words_of(text: str) -> tuple[int, int]:
    """Derive the two 32-bit words of a threefry key from `text`, by SHA-256.

    `jax.random.key` keeps only 32 bits of a seed, few enough for an attacker to try them all.
    """
    digest = hashlib.sha256(b"fedjax_med rounds " + text.encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")


def key_from_secret(secret: str) -> Key:
    """Derive a key from a secret text."""
    words = jnp.array(words_of(secret), jnp.uint32)
    key: Key = jax.random.wrap_key_data(words, impl="threefry2x32")
    return key
