"""The table of random streams: no two draws of a run may have the same key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_med.client.batching import epoch_batches
from fedjax_med.core.random import Stream

KEY = jax.random.key(3)


def words(key):
    return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_no_stream_is_that_of_another_or_of_any_count():
    """Folding in is injective for one key, so different numbers never give the same key.

    Rounds, clients, epochs, steps, positions and attacks are counted in int32, and so stay below
    2^31, however many there are; and a split is the folding in of 0 and 1.
    """
    values = [int(stream) for stream in Stream.__members__.values()]  # aliases as well
    assert len(set(values)) == len(values)
    assert all(np.iinfo(np.int32).max < value <= np.iinfo(np.uint32).max for value in values)
    for part, number in zip(jax.random.split(KEY, 3), range(3), strict=True):
        assert words(part) == words(jax.random.fold_in(KEY, number))


@pytest.mark.parametrize("compiled", [False, True])
def test_stream_is_folded_in_as_the_number_that_it_is(compiled):
    def fold(stream, key):
        return jax.random.fold_in(key, stream)

    counts = [*range(130), np.iinfo(np.int32).max]
    keys = {words(jax.random.fold_in(KEY, jnp.int32(number))) for number in counts}
    for stream in Stream:
        one = functools.partial(fold, stream)
        keys.add(words((jax.jit(one) if compiled else one)(KEY)))
    assert len(keys) == len(counts) + len(Stream)


def test_counts_of_a_run_are_int32():
    mask = jnp.ones(2, bool)
    jaxpr = str(jax.make_jaxpr(lambda key: epoch_batches(mask, 1, 110, key))(KEY))
    assert "i32[110]" in jaxpr
    assert "i64" not in jaxpr
