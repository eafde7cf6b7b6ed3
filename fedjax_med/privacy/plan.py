"""Privacy guarantee of a run, and the source of its noise."""

import math
from typing import Any, NamedTuple

from fedjax_med.core.random import key_from_secret
from fedjax_med.core.types import Key
from fedjax_med.errors import UserError
from fedjax_med.privacy import accounting


class NoiseSource(NamedTuple):
    """The source of a private run's noise.

    secret: the secret text of this run alone.
    run: the digest for which the secret was derived.
    """

    secret: str
    run: str

    @property
    def key(self) -> Key:
        """Derive the key of all rounds from the secret."""
        return key_from_secret(self.secret)


class PrivacyPlan(NamedTuple):
    """The privacy that a run guarantees and spends, and the rounds that its budget allows.

    unit: the unit whose influence is bounded, ``client`` or ``example``.
    account: the cost of the run's rounds.
    rounds: how many of the requested rounds the budget allows.
    budget: the largest epsilon; 0: no limit.
    ended: whether the budget ends the run before the requested rounds.
    units: the number of clients or examples.
    """

    unit: str
    account: accounting.PrivacyBudget
    rounds: int
    budget: float = 0.0
    ended: bool = False
    units: int = 0

    def spent(self, done: int) -> dict[str, Any]:
        """Report the privacy spent by `done` rounds, for JSON: an infinite epsilon is None."""
        epsilon = self.account.epsilon(done)
        return {
            "unit": self.unit,
            "epsilon": epsilon if math.isfinite(epsilon) else None,
            "delta": self.account.delta,
            "noise_multiplier": self.account.noise_multiplier,
        }


def check_spent(privacy: PrivacyPlan | None, done: int) -> None:
    """Refuse a budget that the `done` rounds have already exceeded.

    Raises:
        UserError: The budget is exceeded; the message gives the epsilon that they have spent.
    """
    if privacy and privacy.budget and done > privacy.rounds:
        raise UserError(
            f"{done} rounds have spent epsilon {privacy.account.epsilon(done):.3g} already: "
            f"expected --config.privacy.budget of at least that, got {privacy.budget}."
        )


def to_json(
    privacy: PrivacyPlan | None, done: int, noise: NoiseSource | None = None
) -> dict[str, Any]:
    """Build the privacy record of a checkpoint of round `done`; {} if nothing is guaranteed."""
    of_noise = {"noise": noise.run} if noise else {}
    return of_noise | ({"privacy": privacy.spent(done)} if privacy else {})
