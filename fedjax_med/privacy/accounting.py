"""From noise, sampling and rounds to epsilon, by the accountants of `dp_accounting`.

All that is accounted is a composition of Gaussian mechanisms on Poisson samples, under zero-out
neighbours: one client or one example counts as nothing in one of the two. The accountants give
upper bounds: "pld" by privacy loss distributions (Koskela et al., AISTATS 2020; Doroshenko et al.,
PoPETs 2022), "rdp" by Renyi divergences (Mironov, CSF 2017; Mironov, Talwar & Zhang, 2019).
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

ACCOUNTANTS = ("pld", "rdp")
# Fractional ones take long, and matter only where epsilon is large.
_ORDERS = (1.25, 1.5, 1.75, 2, 2.5, *range(3, 64), *(2**power for power in range(6, 12)))
_MEANINGLESS = 100.0  # epsilon above which nobody needs the tighter bound, which takes long then
_TOLERANCE = 5e-4  # of the logarithm of a noise multiplier
_GRAIN = 2.0**-22  # float32 draws in [0, 1) are multiples of 2**-23, and so is their comparison
_TAIL_SHARE = 0.01  # of delta, at most, for steps that are not what is counted


class Use(NamedTuple):
    """How a round uses the data of one client, or one example."""

    rate: float = 1.0  # the probability of each step to have it, independently of all else
    steps: int = 1  # noised releases in a round
    tail: float = 0.0  # at most the probability of a step to be another than that


def of_client(rate: float) -> Use:
    """The use of a client that takes part with the probability `rate`, each by itself.

    A cohort of a fixed size is no such sample, so it claims nothing: `rate` 1. So do clients
    whose state shows whether they took part before, which the proof of amplification excludes.
    Nor does a rate below 1 hold against those who learn who took part: for them it is 1.
    """
    return Use(min(1.0, rate + _GRAIN))


def of_examples(
    sizes: Iterable[int], batch_size: int, epochs: int, room: int, tail: float
) -> tuple[Use, ...]:
    """The uses of an example of each client, less those that another one bounds.

    Args:
        sizes: n, the examples of each client.
        batch_size: B, how many of them a step is expected to have.
        epochs: in a round, of ceil(n / B) steps each.
        room: how many a step has room for (`fedjax_med.client.local_training.poisson_room`).
        tail: at most the probability that more are drawn.
    """
    counted = sorted({int(size) for size in sizes if size > 0})
    tail = tail if counted and counted[-1] > room else 0.0
    uses: dict[int, Use] = {}
    for size in counted:
        steps = -(-size // batch_size) * epochs
        # Of those with as many steps the smallest, which comes first, has the highest rate.
        uses.setdefault(steps, Use(min(1.0, batch_size / size + _GRAIN), steps, tail))
    return tuple(uses.values())


class Account(NamedTuple):
    """What is spent: the worst of the uses bounds all units."""

    noise_multiplier: float  # standard deviation of the noise over sensitivity
    uses: tuple[Use, ...]
    delta: float
    accountant: str = "pld"

    def epsilon(self, rounds: int) -> float:
        """Epsilon after so many rounds, at `delta`; infinity without noise."""
        if rounds == 0 or not self.uses:
            return 0.0
        if self.noise_multiplier == 0:
            return math.inf
        return max(_epsilons(self, rounds))

    def rounds_within(self, budget: float, most: int) -> int:
        """The most rounds, up to `most`, whose epsilon is not above `budget`."""
        least, beyond = 0, most + 1
        while beyond - least > 1:
            middle = (least + beyond) // 2
            fits = self.epsilon(middle) <= budget
            least, beyond = (middle, beyond) if fits else (least, middle)
        return least

    def noise_for(self, epsilon: float, rounds: int) -> float:
        """The noise multiplier by which `rounds` cost `epsilon`, up to 1 % less.

        Where nothing is used, none is needed: 0.

        Raises:
            UserError: No noise is enough.
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
        # The quick bound first: it is above the other one, so it asks for more noise.
        for accountant in ("rdp", self.accountant)[: 1 + (self.accountant != "rdp")]:
            low = high - 0.3
            while low > -16 and excess(low, accountant) <= 0:
                low, high = low - 0.6, low
            root = functools.partial(excess, accountant=accountant)
            high = float(optimize.brentq(root, low, high, xtol=_TOLERANCE)) + _TOLERANCE
        # In a form that people can read, and the same on every machine.
        return math.ceil(math.exp(high) * 1e4) / 1e4


def _epsilons(account: Account, rounds: int) -> Iterator[float]:
    """Epsilon of each use that may be the worst one."""
    noise, delta = account.noise_multiplier, account.delta
    bounds = [(_bounded(_rdp, noise, use, rounds, delta), use) for use in account.uses]
    worst = -math.inf
    for bound, use in sorted(bounds, reverse=True):
        if bound <= worst:  # what bounds this use from above is below another's already
            return
        tight = account.accountant == "pld" and bound <= _MEANINGLESS
        epsilon = _bounded(_pld, noise, use, rounds, delta) if tight else bound
        worst = max(worst, min(epsilon, bound))
        yield worst


def _bounded(bound: Any, noise: float, use: Use, rounds: int, delta: float) -> float:
    """`bound`, in which steps that are not what is counted have their share of delta.

    With t the probability of any such step, each of both distributions is t off in total variation,
    so that delta grows by t (1 + e^epsilon).
    """
    count = rounds * use.steps
    spared = _TAIL_SHARE * delta if use.tail else 0.0
    epsilon: float = bound(noise, use.rate, count, delta - spared)
    if use.tail and math.log(count * use.tail) + math.log1p(math.exp(min(epsilon, 700))) > math.log(
        spared
    ):
        return math.inf
    return epsilon


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that an order of the Renyi divergence is left out."""
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
    """The distribution of the privacy loss of one step."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=interval
    )


@functools.lru_cache(4096)
def _pld(noise: float, rate: float, count: int, delta: float) -> float:
    if rate == 1:  # Gaussian mechanisms compose to one, whose epsilon is known (Balle & Wang, 2018)
        return float(dp_accounting.get_epsilon_gaussian(noise / math.sqrt(count), delta))
    bound = _rdp(noise, rate, count, delta)
    interval = 1e-4 if bound < 1 else 5e-4 if bound < 10 else 1e-3
    loss = _loss(noise, rate, interval)
    return float(loss.self_compose(count).get_epsilon_for_delta(delta))
