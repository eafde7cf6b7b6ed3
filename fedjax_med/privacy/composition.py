"""Refuses a process that spends more of its clients' privacy than an account counts."""

from typing import NoReturn

import jax

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.process import Process
from fedjax_med.errors import UserError
from fedjax_med.privacy import accounting


def check_clients(
    process: Process, state: FederatedState, budget: accounting.PrivacyBudget
) -> None:
    """Refuse a process that does not protect its clients as `budget` counts.

    Args:
        process: the parts of a round, with `fedjax_med.privacy.dp_mean` as aggregator.
        state: any of its states, or its shapes.
        budget: the account, whose unit is one client.

    Raises:
        UserError: The noise or the rate is not the counted one, or a part voids the guarantee.
    """
    mechanism = process.aggregator.mechanism
    if mechanism is None:
        _refuse("an aggregator that adds noise, fedjax_med.privacy.dp_mean", "got another one")
    if mechanism.noise_multiplier < budget.noise_multiplier:
        counted = f"dp_mean with noise_multiplier={budget.noise_multiplier:g}, as counted"
        _refuse(counted, f"got {mechanism.noise_multiplier:g}")
    rate = max((use.rate for use in budget.uses), default=0.0)
    if rate < accounting.of_client(mechanism.participation_rate).rate:
        counted = (
            f"accounting.of_client(rate={mechanism.participation_rate:g}), as clients take part"
        )
        _refuse(counted, f"the budget counts the rate {rate:.6g}")
    if rate < 1 and _remembers(process, state):
        why = "clients keep a state, which shows whether they took part before"
        _refuse("accounting.of_client(rate=1)", f"{why}, and the budget counts the rate {rate:.6g}")
    _check_messages(process)


def _check_messages(process: Process) -> None:
    """Refuse parts by which a client's data reach the model other than through its message."""
    if process.algorithm.process_updates is not None:
        _refuse("an algorithm whose server reads no single updates", "got one that does")
    if any(transform.across for transform in process.transforms):
        _refuse(
            "transforms that change each message by itself (MessageTransform.across=False)",
            "got one that depends on other clients' messages",
        )
    if any(attack.messages is not None for attack in process.faults.attacks):
        _refuse("no attack on messages", "got one, which may depend on other clients' messages")


def _remembers(process: Process, state: FederatedState) -> bool:
    """Return whether a client's message may depend on the rounds in which it took part."""
    of_transforms = state.aggregator[:-1] if process.transforms else ()
    stateless = process.algorithm.traits.stateless_clients
    return not stateless or bool(jax.tree.leaves((state.clients, of_transforms)))


def _refuse(expected: str, got: str) -> NoReturn:
    raise UserError(f"the budget does not hold for this process: expected {expected}; {got}.")
