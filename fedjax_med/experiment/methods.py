"""From an experiment to how it learns: algorithm, reducer, who takes part, and what goes wrong."""

from typing import NamedTuple

from fedjax_med.algorithms import _ema, _report_loss
from fedjax_med.client.local_training import LocalTraining
from fedjax_med.core import aggregation
from fedjax_med.core import faults as conditions
from fedjax_med.core import round as federated
from fedjax_med.core.types import Key
from fedjax_med.errors import UserError
from fedjax_med.experiment import components, privacy_plan
from fedjax_med.experiment.config import Experiment


class Method(NamedTuple):
    """What `fedjax_med.core.round.run_round` is made of."""

    algorithm: federated.FedAlgorithm
    transforms: tuple[aggregation.MessageTransform, ...]
    reducer: aggregation.Reducer  # with the transforms
    cohort: federated.Cohort | None  # None: everyone, whose images need not be gathered
    conditions: conditions.Conditions
    keep_updates: bool
    key: Key  # of all rounds


def build(
    experiment: Experiment,
    training: LocalTraining,
    num_classes: int,
    key: Key,
    means: privacy_plan.Means | None = None,
) -> Method:
    """The method that `experiment` names.

    Args:
        experiment: completed (`fedjax_med.experiment.resolve.complete`).
        training: how a client trains.
        num_classes: K.
        key: of all rounds, if privacy has no secret for them.
        means: of privacy, as they were chosen for the data.

    Raises:
        UserError: A name does not exist, an option is out of its range, or two parts do not go
            together.
    """
    training = privacy_plan.training(experiment, training, means)
    optimizer = components.build("optax", experiment.server_optimizer)
    algorithm = components.build("algorithms", experiment.algorithm, training, optimizer)
    reducer = privacy_plan.reducer(experiment, means)
    if reducer.informed:
        if algorithm.groups:
            raise UserError(
                f"reducer {experiment.reducer.name} weighs clients by the loss of one global "
                f"model, and {experiment.algorithm.name} has a model for each group: choose "
                "another --config.reducer.name, such as mean."
            )
        algorithm = _report_loss.wrap(algorithm, training)
    if algorithm.groups > 1 and reducer.least > 1:
        raise UserError(
            f"reducer {experiment.reducer.name} needs {reducer.least} clients in each group, and "
            f"how many are in a group of {experiment.algorithm.name} is not known before: choose "
            "another --config.reducer.name, such as median."
        )
    if experiment.average and experiment.algorithm.name == "cfl":
        raise UserError(
            "--config.average does not go with cfl: a cluster that is born has no average yet. "
            "Give --config.average=0."
        )
    if experiment.average:
        algorithm = _ema.wrap(algorithm, experiment.average)
    transforms = tuple(components.build("transforms", spec) for spec in experiment.transforms)
    happening = _conditions(experiment, num_classes)
    privacy_plan.check_parts(experiment, algorithm, transforms, reducer, happening)
    return Method(
        algorithm,
        transforms,
        aggregation.chain(*transforms, reducer=reducer),
        _cohort(experiment),
        happening,
        experiment.keep_updates,
        privacy_plan.rounds_key(means, key),
    )


def _cohort(experiment: Experiment) -> federated.Cohort | None:
    if experiment.cohort.name == "everyone":
        return None
    cohort: federated.Cohort = components.build(
        "cohorts", experiment.cohort, experiment.num_clients
    )
    return cohort


def _conditions(experiment: Experiment, num_classes: int) -> conditions.Conditions:
    attacks = []
    for spec in experiment.attacks:
        attack: conditions.Attack = components.build("attacks", spec, num_classes)
        everyone = range(experiment.num_clients)
        strangers = [client for client in attack.clients if client not in everyone]
        if strangers:
            raise UserError(
                f"attack {spec.name}: client {strangers[0]} is hostile, but there are "
                f"{experiment.num_clients} clients, 0 to {experiment.num_clients - 1}."
            )
        attacks.append(attack)
    turnout = experiment.turnout
    # A private run must not end by what a client sends: that would tell of it.
    skip = turnout.bad == "skip" or experiment.privacy.unit != "none"
    given = conditions.Turnout(turnout.rate, turnout.late, turnout.garbage, skip, turnout.largest)
    return conditions.Conditions(given, tuple(attacks))
