"""Named random streams of a round, in one table so that no two share a number by accident."""

import enum
import hashlib

import jax
import jax.numpy as jnp

from fedjax_med.core.types import Key

# Raised whenever a stream's value changes: a run that draws from a named stream is continued only
# with the streams that it began with (`fedjax_med.run.provenance`).
STREAMS = 2


@enum.unique
class Stream(enum.IntEnum):
    """Numbers folded into a key, one for each kind of draw.

    The values determine the bits of every result: never change one, never use one twice. All are
    2^31 or above, where no count can come: rounds, clients, epochs, steps and positions are folded
    into keys as int32, 0, 1, 2, and so on, and splitting a key in two is folding in 0 and 1.
    """

    # Of a round's key:
    COHORT = 2**31
    ATTACKERS = 2**31 + 1  # shared by the Byzantine clients
    # Of a client's key in a round:
    PRESENT = 2**31 + 2
    STRAGGLER = 2**31 + 3
    CORRUPTED = 2**31 + 4
    ATTACK = 2**31 + 5
    LOSS = 2**31 + 6  # loss of the global model, for loss-weighted aggregators
    CLUSTER = 2**31 + 7  # the choice of a cluster (IFCA)
    BODY = 2**31 + 8  # FedRep's steps on the body
    # Of the key of an algorithm's own seed, which may be the experiment's:
    MODELS = 2**31 + 9  # the noise between the initial models (IFCA)


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
