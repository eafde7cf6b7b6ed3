"""Integer noise that is Gaussian to within a distance that the accounts include.

Floating-point samplers leave traces: `jax.random.normal` in float32 takes 2**23 values, so that the
last bits of what is released tell the input (Mironov, CCS 2012; Holohan & Braghin, ESORICS 2021).
This noise is an integer, drawn by integer arithmetic from a table of exact probabilities, and is
added to integers.

The noise is ``128 Y + U1 + ... + U7 - 444``: Y has the probabilities of a Gaussian of standard
deviation 1280 at the integers, U1 to U7 are uniform on 0 to 127, and all are independent.

*Why it is private.* Compare it with ``round(G) + U1 + ... + U7 - 444``, where G is Gaussian of
standard deviation s = 163840. For integers x, x + round(G) = round(x + G): this is the Gaussian
mechanism with post-processing, and every account of that mechanism holds for it. Let f(t) be the
integral of the density of G from t - 1/2 to t + 1/2, and b the probabilities of U1 + ... + U7. What
is drawn has the probabilities ``sum_k 128 f(128 k) b(x - 128 k)``, what it is compared with has
``sum_t f(t) b(x - t)``. By Poisson's summation formula they differ by
``sum_t exp(2 pi i l t / 128) f(t) b(x - t)``, summed over l = 1 to 127. Each U has a zero at these
frequencies: summed by parts seven times, a term is the seventh derivative of f, over
``(2 sin(pi l / 128))**7``. Relative to the density this is ``H7(x / s) / (2 pi 1280)**7`` for l = 1
and 127, with H7 the Hermite polynomial, of mean square 7!, and much less for the others. The root
mean square of the relative difference is so below 2**-83, and by Pinsker's inequality and the chain
rule the total variation over n numbers is at most ``sqrt(n / 2) 2**-83``.

To this add for each number 2**-122 for |Y| above 16383, 2**-129 for probabilities that are rounded
to multiples of 2**-142, and 2**-103 for the two words that up to 2**26 numbers share (`draw`). For
up to 2**36 numbers in a run the total is less than `GAP` = 2**-65.

*What is assumed:* the bits of JAX's threefry are independent and uniform.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from fedjax_med.core.types import Array, Key

# Bounds the total variation distance of all noise of a run, of up to 2**36 numbers, from Gaussian.
GAP = 2.0**-65

_COARSE = 1280  # standard deviation of Y
_STEP_BITS = 7
DEVIATION = float(_COARSE << _STEP_BITS)  # s

_SLOT_BITS = 14  # |Y| is below 2**14, 12.8 standard deviations
_SLOTS = 1 << _SLOT_BITS
_WORDS = 4  # of 32 bits, in a threshold
_FULL = 1 << (32 * _WORDS)
_FIXED = 256  # binary places of the probabilities while they are computed


def probabilities() -> list[int]:
    """Compute the probabilities of |Y| = 0, 1, ..., in units of 2**-142; they sum to 2**142."""
    one, square = 1 << _FIXED, _COARSE * _COARSE
    decay, term, k = 0, one, 0
    while term:  # the series of exp(-1 / (2 * 1280**2))
        decay += -term if k % 2 else term
        k += 1
        term //= 2 * square * k
    twice = decay * decay >> _FIXED
    value, ratio, density = one, decay, []
    variance = int(DEVIATION) ** 2
    for k in range(_SLOTS):
        # The integral over [t - 1/2, t + 1/2], by its series around t = 128 k.
        t2 = (k * k << _FIXED) // square
        fourth = (t2 * t2 >> _FIXED) - 6 * t2 + 3 * one
        factor = one + (t2 - one) // (24 * variance) + fourth // (1920 * variance**2)
        density.append((value * factor >> _FIXED) * (1 if k == 0 else 2))
        value, ratio = value * ratio >> _FIXED, ratio * twice >> _FIXED
    whole, total = sum(density), _FULL << _SLOT_BITS
    units = [(2 * each * total + whole) // (2 * whole) for each in density]
    units[0] += total - sum(units)
    return units


@functools.cache
def table() -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Build the alias table of |Y| (Walker, 1977; Vose, 1991), in exact integers.

    Returns:
        The four words of each slot's threshold, highest first, uint32 [16384] each, and the slots'
        aliases, int32 [16384]. Of a slot's 2**128 cases those below the threshold give the slot's
        own number, the others its alias.
    """
    left = probabilities()
    threshold, alias = [_FULL - 1] * _SLOTS, list(range(_SLOTS))
    small = [k for k, units in enumerate(left) if units < _FULL]
    large = [k for k, units in enumerate(left) if units >= _FULL]
    while small:
        poor, rich = small.pop(), large[-1]
        threshold[poor], alias[poor] = left[poor], rich
        left[rich] -= _FULL - left[poor]
        if left[rich] < _FULL:
            small.append(large.pop())
    words = [
        np.array([(each >> (32 * place)) & 0xFFFFFFFF for each in threshold], np.uint32)
        for place in reversed(range(_WORDS))
    ]
    return tuple(words), np.array(alias, np.int32)


def _words(pair: Array, places: Array, block: int) -> tuple[Array, Array]:
    """Encrypt the counters (place, block) by threefry: two words, each in the shape of `places`.

    `jax.random.bits` would throw one of the two away, and depends on JAX's settings.
    """
    blocks = jnp.full_like(places, block)
    one, other = threefry2x32_p.bind(pair[0], pair[1], places, blocks)
    return one, other


def draw(key: Key, count: int) -> Array:
    """Draw `count` independent integers, int32 [count], of standard deviation `DEVIATION`.

    Each is made of 128 bits of its own and of 64 that all share. The shared ones are the last of
    those compared with a threshold: they decide where the 64 before them are equal to it, and the
    chance that they decide twice is below ``count**2 * 2**-129``.
    """
    pair = jax.random.bits(key, (2,), jnp.uint32)
    places = jnp.arange(count, dtype=jnp.uint32)
    (first, second), (high, low) = _words(pair, places, 0), _words(pair, places, 1)
    before, last = _words(pair, jnp.uint32(0), 2)
    thresholds, aliases = table()
    slot = (first >> 18).astype(jnp.int32)
    below = jnp.asarray(False)
    for word, drawn in zip(reversed(thresholds), (last, before, low, high), strict=True):
        limit = jnp.asarray(word)[slot]
        below = (drawn < limit) | ((drawn == limit) & below)
    size = jnp.where(below, slot, jnp.asarray(aliases)[slot])
    coarse = jnp.where((first >> 17) & 1 == 1, -size, size) << _STEP_BITS
    # 49 more bits: two times seven of the first word, four times seven of the second, 3 + 4 left.
    parts = [first, first >> 7, second, second >> 7, second >> 14, second >> 21]
    fine = sum(part & 127 for part in parts) + ((first >> 14) & 7) * 16 + (second >> 28)
    return coarse + fine.astype(jnp.int32) - 444
