"""Refuses options that are out of their range, of whatever an experiment names, before any data."""

from typing import Any

import optax

from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core.faults import Attack
from fedjax_med.errors import UserError, calling
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.models.pretrained import hub

ANY_CLASSES = 2**10  # more than any data set has
_MANY = 10**9  # clients, where the data decides how many there are


def check(experiment: Experiment) -> None:
    """Refuse options that are out of their range, those of components without effect as well.

    Args:
        experiment: completed; its number of clients is 0 if it is left open.

    Raises:
        UserError: An option is out of its range, as far as no data is needed to tell.
    """
    for source in experiment.pretrained.split("+"):
        hub.parse(source)
    clients = experiment.num_clients or _MANY
    arguments: dict[str, tuple[Any, ...]] = {
        "aggregators": (),
        "algorithms": (trainer(), optax.identity()),
        "attacks": (ANY_CLASSES,),
        "cohorts": (clients,),
        "models": (ANY_CLASSES,),
        "optax": (),
        "transforms": (),
    }
    for shelf, spec in components.specs(experiment):
        if shelf not in arguments:  # its components read data when they are built
            _check_unbuilt(shelf, spec)
            continue
        with calling(f"{spec.name} with the options {spec.options}"):
            built = components.build(shelf, spec, *arguments[shelf])
        if isinstance(built, Attack):
            check_hostile(spec.name, built, clients)


def _check_unbuilt(shelf: str, spec: Spec) -> None:
    """Call the function ``check_options`` beside the component's ``build``, if there is one."""
    if checks := components.module(shelf, spec.name).__dict__.get("check_options"):
        checks(**spec.options)


def trainer() -> LocalTrainer:
    """Build a trainer that never trains, for algorithms that are built to be checked."""

    def never(*arguments: Any) -> Any:
        raise AssertionError(f"called with {arguments}")

    return LocalTrainer(never, optax.identity(), features=never)


def check_hostile(name: str, attack: Attack, num_clients: int) -> None:
    """Refuse an attack by clients that do not exist.

    Raises:
        UserError: The message names the first of them.
    """
    strangers = [client for client in attack.clients if client not in range(num_clients)]
    if strangers:
        raise UserError(
            f"attack {name}: client {strangers[0]} is hostile, but there are "
            f"{num_clients} clients, 0 to {num_clients - 1}."
        )
