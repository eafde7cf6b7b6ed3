"""Differentially private mean of the messages; the unit of privacy is one client.

McMahan, Ramage, Talwar and Zhang, ICLR 2018, "Learning Differentially Private Recurrent Language
Models": every message is clipped, all weigh the same, the denominator is fixed, and the noise is
Gaussian. Andrew, Thakkar, McMahan and Ramaswamy, NeurIPS 2021, "Differentially Private Learning
with Adaptive Clipping": the clip follows a quantile of the messages' norms.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_med.core.aggregation import Aggregator, ClientInfo, Mechanism
from fedjax_med.core.types import Array, Key, Message
from fedjax_med.errors import UserError
from fedjax_med.privacy import gaussian

_FAR = 1e6  # how far the clip may move, as a factor of its initial value


class State(NamedTuple):
    """The clip of the next round, and the denominator."""

    clip: Array  # float32 []
    expected: Array  # float32 [], n


def _check(options: dict[str, tuple[float, bool, str]]) -> None:
    for name, (value, fits, wanted) in options.items():
        if not fits:
            raise UserError(f"expected aggregator dp_mean to have {name} {wanted}, got {value}.")


def shares_of_noise(
    noise_multiplier: float, quantile: float, count_share: float
) -> tuple[float, float]:
    """Split the noise multiplier into those of messages and counts, which together cost the same.

    Andrew et al., Theorem 1: with s the standard deviation of the counts' noise and 1/2 their
    sensitivity, ``1/noise_multiplier**2 = 1/messages**2 + 1/(2 s)**2``. `count_share` is the last
    term's share. Returns ``messages`` and ``s``.
    """
    if not quantile:
        return noise_multiplier, 0.0
    of_messages = noise_multiplier / math.sqrt(1 - count_share)
    return of_messages, noise_multiplier / (2 * math.sqrt(count_share))


def build(
    *,
    clip_norm: float = 1.0,
    noise_multiplier: float = 1.0,
    quantile: float = 0.0,
    clip_rate: float = 0.2,
    count_share: float = 0.1,
    rate: float = 1.0,
) -> Aggregator:
    """Build the aggregator: clipped messages summed, divided by a fixed n, plus Gaussian noise.

    n = `rate` * S, the expected number of participating clients. A message of weight 0, or with a
    NaN or an infinity anywhere, counts as zero; n does not change. If `rate` is 1, without noise
    and if no message is clipped, the result is the uniform mean over all S.

    Formal guarantee:
        Two federations are neighbours if one client's message is all zeros in one of them
        (zero-out; the number of clients is public). Clipped messages are integers in units of
        ``z C / 163840``; their sum differs by at most C in l2 norm over all leaves, and each of
        its coordinates has noise of standard deviation ``z C``, then it is divided by n: one call
        is one Gaussian mechanism of noise multiplier z, but for a total variation distance that
        the accounts include (`fedjax_med.privacy.noise`, which says what is proved and assumed).
        With `quantile`, C is the round's own, fixed before its messages are known, and that noise
        and the noise of the counts together are one Gaussian mechanism of noise multiplier z.
        `fedjax_med.privacy.accounting` composes the rounds; its result for `rate` < 1 holds only
        against adversaries who do not learn who participates; against others, account with `rate`
        1.
        Not protected: metrics, weights, participation (the records' ``counted``, their bytes, the
        traffic), statistics of the data from before the first round (such as class counts), and
        validation.

    Args:
        clip_norm: C, the largest l2 norm that passes; if the clip adapts, its initial value.
        noise_multiplier: z; below 1/32, where no epsilon is of use, the noise is that of 1/32.
        quantile: the share of messages that should pass unclipped, in [0, 1); 0: C is fixed.
        clip_rate: how fast log C moves towards the quantile.
        count_share: the share of the privacy cost for counting unclipped messages, in (0, 1).
        rate: the probability that a client participates, independently of the others, in (0, 1]: a
            `Process` refuses another one than that of its faults.

    Raises:
        UserError: An option is out of its range.
    """
    _check(
        {
            "clip_norm": (clip_norm, clip_norm > 0, "> 0"),
            "noise_multiplier": (noise_multiplier, noise_multiplier >= 0, ">= 0"),
            "quantile": (quantile, 0 <= quantile < 1, "in [0, 1)"),
            "clip_rate": (clip_rate, clip_rate > 0, "> 0"),
            "count_share": (count_share, 0 < count_share < 1, "in (0, 1)"),
            "rate": (rate, 0 < rate <= 1, "in (0, 1]"),
        }
    )
    message_noise, count_noise = shares_of_noise(noise_multiplier, quantile, count_share)

    def init(message: Message, num_clients: int, num_senders: int) -> State:
        del message, num_clients
        return State(jnp.float32(clip_norm), jnp.float32(rate * num_senders))

    def update(
        messages: Message, client_info: ClientInfo, state: State, key: Key
    ) -> tuple[Message, State]:
        noise_key, count_key = jax.random.split(key)
        lengths = gaussian.norms(messages)
        counts = (client_info.num_examples > 0) & jnp.isfinite(lengths)
        on = gaussian.grid(message_noise, len(lengths))
        total = gaussian.clipped_sum(messages, lengths, counts, state.clip, on)
        mean = gaussian.noised_mean(total, state.clip, state.expected, on, noise_key, messages)
        if not quantile:
            return mean, state
        passed = jnp.where(counts, jnp.where(lengths <= state.clip, 1, -1), 0)
        unclipped = _noised_count(passed, count_noise, count_key)
        excess = unclipped / state.expected + 0.5 - quantile
        clip = state.clip * jnp.exp(-clip_rate * excess)
        clip = jnp.clip(clip, clip_norm / _FAR, clip_norm * _FAR)
        return mean, state._replace(clip=clip)

    mechanism = Mechanism(noise_multiplier, rate)
    return Aggregator(init, update, is_private=True, mechanism=mechanism)


def _noised_count(passed: Array, deviation: float, key: Key) -> Array:
    """Sum halves of `passed`, int [S] of -1, 0 and 1, with noise of this standard deviation.

    With +-1/2 rather than 0 and 1, a client changes the sum by at most 1/2 (Andrew et al.).
    """
    on = gaussian.grid(2 * deviation, len(passed))
    if on is None:
        return 0.5 * jnp.sum(passed)
    half = int(on.units)  # at most `units`, as the noise demands
    total = half * jnp.sum(passed, dtype=jnp.int32) + gaussian.noise_on(on, 1, key)[0]
    return total.astype(jnp.float32) / (2 * on.units)
