"""Epsilon from noise, sampling and rounds, by the accountants of `dp_accounting`.

Accounts for compositions of Gaussian mechanisms on Poisson samples, under zero-out neighbours: one
client or one example counts as zero in one of the two data sets. The accountants give upper bounds:
"pld" by privacy loss distributions (Koskela et al., AISTATS 2020; Doroshenko et al., PoPETs 2022),
"rdp" by Renyi divergences (Mironov, CSF 2017; Mironov, Talwar & Zhang, 2019). To delta they add how
far the noise is from Gaussian, a total variation distance of at most 2**-65 in a run.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import dp_accounting
from dp_accounting import rdp
from dp_accounting.pld import privacy_loss_distribution
from scipy import optimize

from fedjax_med.errors import UserError
from fedjax_med.privacy import noise as noise_of_run

ACCOUNTANTS = ("pld", "rdp")
# Renyi orders; fractional ones take long to compute, and matter only where epsilon is large.
_ORDERS = (1.25, 1.5, 1.75, 2, 2.5, *range(3, 64), *(2**power for power in range(6, 12)))
_MEANINGLESS = 100.0  # epsilon above which the tighter bound, slow there, is of no use
_TOLERANCE = 5e-4  # of the logarithm of a noise multiplier
_GRAIN = 2.0**-22  # bounds rounding of rates: float32 draws in [0, 1) are multiples of 2**-23
_TAIL_SHARE = 0.01  # largest share of delta for steps that deviate from the counted mechanism
_GAP_SHARE = 1e-6  # the share where only the noise deviates from a Gaussian's, if it is enough


class SamplingEvent(NamedTuple):
    """One round's use of the data of one client or one example.

    Attributes:
        rate: the probability that a step uses it, independently of all else.
        steps: noised releases in a round.
        tail: upper bound on the probability that a step deviates from this.
    """

    rate: float = 1.0
    steps: int = 1
    tail: float = 0.0


def of_client(rate: float) -> SamplingEvent:
    """Give the sampling event of a client that participates independently, with probability `rate`.

    A cohort of a fixed size is no such sample, so it needs `rate` 1. So do clients whose state
    shows whether they participated before, which the proof of amplification excludes. A rate below
    1 does not hold against an adversary who learns who participated: there it is 1.
    """
    return SamplingEvent(min(1.0, rate + _GRAIN))


def of_examples(
    sizes: Iterable[int], batch_size: int, epochs: int, capacity: int, tail: float
) -> tuple[SamplingEvent, ...]:
    """Give the sampling events of an example of each client, without those that another one bounds.

    Args:
        sizes: n, the number of examples of each client.
        batch_size: B, the expected number of examples in a step.
        epochs: epochs in a round, of ceil(n / B) steps each.
        capacity: the capacity of a step's batch (`fedjax_med.client.batching.poisson_capacity`).
        tail: upper bound on the probability that more are drawn.
    """
    counted = sorted({int(size) for size in sizes if size > 0})
    tail = tail if counted and counted[-1] > capacity else 0.0
    uses: dict[int, SamplingEvent] = {}
    for size in counted:
        steps = -(-size // batch_size) * epochs
        # Of the clients with equally many steps, the smallest comes first: it has the highest rate.
        uses.setdefault(steps, SamplingEvent(min(1.0, batch_size / size + _GRAIN), steps, tail))
    return tuple(uses.values())


class PrivacyBudget(NamedTuple):
    """The privacy that is spent: the worst of the uses bounds all clients or examples.

    Attributes:
        noise_multiplier: standard deviation of the noise over sensitivity.
        uses: how a round uses each unit's data; the worst use counts.
        delta: of the guarantee.
        accountant: pld or rdp.
    """

    noise_multiplier: float
    uses: tuple[SamplingEvent, ...]
    delta: float
    accountant: str = "pld"

    def epsilon(self, rounds: int) -> float:
        """Compute epsilon after `rounds` rounds, at `delta`; infinity without noise."""
        if rounds == 0 or not self.uses:
            return 0.0
        if self.noise_multiplier == 0:
            return math.inf
        return max(_epsilons(self, rounds))

    def rounds_within(self, budget: float, most: int) -> int:
        """Find the largest number of rounds, up to `most`, whose epsilon is not above `budget`."""
        least, beyond = 0, most + 1
        while beyond - least > 1:
            middle = (least + beyond) // 2
            fits = self.epsilon(middle) <= budget
            least, beyond = (middle, beyond) if fits else (least, middle)
        return least

    def noise_for(self, epsilon: float, rounds: int) -> float:
        """Find the noise multiplier with which `rounds` rounds cost `epsilon`, or up to 1 % less.

        Returns 0 if no data are used.

        Raises:
            UserError: No noise suffices.
        """
        if not self.uses or not rounds:
            return 0.0

        def excess(log_noise: float, accountant: str) -> float:
            trial = self._replace(noise_multiplier=math.exp(log_noise), accountant=accountant)
            return math.log(min(max(trial.epsilon(rounds), 1e-9), 1e9) / epsilon)

        high = 0.0
        while excess(high, "rdp") > 0:
            high += 1
            if high > 16:
                raise UserError(
                    f"expected an epsilon that some noise reaches in {rounds} rounds at delta="
                    f"{self.delta}, got {epsilon}."
                )
        # The fast bound first: it is the looser one, so its noise is enough for the other.
        for accountant in ("rdp", self.accountant)[: 1 + (self.accountant != "rdp")]:
            low = high - 0.3
            while low > -16 and excess(low, accountant) <= 0:
                low, high = low - 0.6, low
            root = functools.partial(excess, accountant=accountant)
            high = float(optimize.brentq(root, low, high, xtol=_TOLERANCE)) + _TOLERANCE
        # Rounded to be readable, and the same on every machine.
        return math.ceil(math.exp(high) * 1e4) / 1e4


def _epsilons(account: PrivacyBudget, rounds: int) -> Iterator[float]:
    """Yield the largest epsilon so far, over the uses that may be the worst one."""
    noise, delta = account.noise_multiplier, account.delta
    bounds = [(_bounded(_rdp, noise, use, rounds, delta), use) for use in account.uses]
    worst = -math.inf
    for bound, use in sorted(bounds, reverse=True):
        if bound <= worst:  # this use's upper bound is already below another's epsilon
            return
        tight = account.accountant == "pld" and bound <= _MEANINGLESS
        epsilon = _bounded(_pld, noise, use, rounds, delta) if tight else bound
        worst = max(worst, min(epsilon, bound))
        yield worst


def _bounded(bound: Any, noise: float, use: SamplingEvent, rounds: int, delta: float) -> float:
    """Compute `bound`, with a share of delta for what deviates from the counted mechanism.

    Steps do with a probability t of any, and the noise of the run by a total variation distance of
    t' (`noise.GAP`): both distributions are off by t + t' in total variation, so that delta grows
    by (t + t') (1 + e^epsilon). Infinity if the share is too small.
    """
    count = rounds * use.steps
    deviation = math.log(count * use.tail + noise_of_run.GAP)
    for share in (_TAIL_SHARE,) if use.tail else (_GAP_SHARE, _TAIL_SHARE):
        epsilon: float = bound(noise, use.rate, count, delta * (1 - share))
        if deviation + math.log1p(math.exp(min(epsilon, 700))) <= math.log(share * delta):
            return epsilon
    return math.inf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings that an order of the Renyi divergence is skipped."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@functools.lru_cache(4096)
def _rdp(noise: float, rate: float, count: int, delta: float) -> float:
    event: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(noise)
    if rate < 1:
        event = dp_accounting.PoissonSampledDpEvent(rate, event)
    accountant = rdp.RdpAccountant(_ORDERS)
    with _quiet():
        return float(accountant.compose(event, count).get_epsilon(delta))


@functools.lru_cache(16)
def _loss(noise: float, rate: float, interval: float) -> Any:
    """Compute the distribution of the privacy loss of one step."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=interval
    )


@functools.lru_cache(4096)
def _pld(noise: float, rate: float, count: int, delta: float) -> float:
    if rate == 1:  # Gaussian mechanisms compose to one, of known epsilon (Balle & Wang, 2018)
        return float(dp_accounting.get_epsilon_gaussian(noise / math.sqrt(count), delta))
    bound = _rdp(noise, rate, count, delta)
    interval = 1e-4 if bound < 1 else 5e-4 if bound < 10 else 1e-3
    loss = _loss(noise, rate, interval)
    return float(loss.self_compose(count).get_epsilon_for_delta(delta))
