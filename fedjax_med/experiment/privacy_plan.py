"""Plans an experiment's differential privacy: its sampling, its noise and its last round."""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from fedjax_med.client.batching import POISSON_TAIL, poisson_capacity
from fedjax_med.core.aggregation import MessageTransform
from fedjax_med.core.algorithm import Traits
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.privacy import accounting
from fedjax_med.privacy.plan import PrivacyPlan


def _remembers(spec: Spec) -> bool:
    """Return whether the transform has a state, by which messages may reveal earlier rounds."""
    transform: MessageTransform = components.build("transforms", spec)
    return bool(jax.tree.leaves(jax.eval_shape(lambda: transform.init(jnp.zeros(2), 1))))


def _sampling(
    experiment: Experiment, traits: Traits, sizes: list[int]
) -> tuple[accounting.SamplingEvent, ...]:
    if experiment.privacy.unit == "client":
        forgetful = traits.stateless_clients and not any(map(_remembers, experiment.transforms))
        rate = experiment.participation.participation_rate
        return (accounting.of_client(rate if forgetful else 1.0),)
    client = experiment.client
    capacity = poisson_capacity(client.batch_size, max(sizes, default=0))
    return accounting.of_examples(sizes, client.batch_size, client.epochs, capacity, POISSON_TAIL)


def plan_privacy(
    experiment: Experiment,
    traits: Traits,
    sizes: Iterable[int],
    noise_multiplier: float | None = None,
) -> PrivacyPlan | None:
    """Plan the privacy that `experiment` guarantees and spends; None if it guarantees none.

    Args:
        experiment: as trained, and checked.
        traits: of its algorithm.
        sizes: the training examples of each client.
        noise_multiplier: of the trained run, if already known.

    Raises:
        UserError: No noise reaches the target epsilon, or one round costs more than the budget.
    """
    sizes = list(map(int, sizes))
    asked = experiment.privacy
    if asked.unit == "none":
        return None
    noise = asked.noise_multiplier if noise_multiplier is None else noise_multiplier
    uses = _sampling(experiment, traits, sizes)
    account = accounting.PrivacyBudget(noise, uses, asked.delta, asked.accountant)
    if asked.target_epsilon and noise_multiplier is None:
        solved = account.noise_for(asked.target_epsilon, experiment.rounds)
        account = account._replace(noise_multiplier=solved)
    rounds = experiment.rounds
    if asked.budget:
        rounds = account.rounds_within(asked.budget, experiment.rounds)
        if not rounds:
            raise UserError(_too_little(account, asked.budget))
    ended, units = rounds < experiment.rounds, len(sizes) if asked.unit == "client" else sum(sizes)
    return PrivacyPlan(asked.unit, account, rounds, asked.budget, ended, units)


def _too_little(account: accounting.PrivacyBudget, budget: float) -> str:
    first, noise = account.epsilon(1), account.noise_multiplier
    if math.isinf(first):
        return (
            f"no budget holds with --config.privacy.noise_multiplier={noise:g}, which bounds no "
            "epsilon: raise it, or give --config.privacy.target_epsilon."
        )
    wanted = f"expected --config.privacy.budget of at least {first:.3g}"
    return f"{wanted}, what the first round costs, got {budget}: raise it, or the noise."
