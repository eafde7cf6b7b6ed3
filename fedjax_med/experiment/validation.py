"""Refuses values that are out of range, and parts that do not go together."""

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

from fedjax_med.client import augmentation
from fedjax_med.client.optimizers import schedule
from fedjax_med.core.model import Model
from fedjax_med.core.process import Process
from fedjax_med.data.images.decode import CROPS
from fedjax_med.errors import UserError, check_name
from fedjax_med.evaluation import operating
from fedjax_med.execution import backend
from fedjax_med.experiment import table_fields
from fedjax_med.experiment.config import Experiment
from fedjax_med.privacy import accounting

_NOT_NEGATIVE = ("learning_rate", "weight_decay", "eps", "eps_root", "initial_accumulator_value")

_SHARE: tuple[str, Callable[[Any], bool]] = ("in [0, 1)", lambda value: 0 <= value < 1)
_NONE_OR_MORE: tuple[str, Callable[[Any], bool]] = (">= 0", lambda value: value >= 0)
_ABOVE_ZERO: tuple[str, Callable[[Any], bool]] = ("> 0", lambda value: value > 0)
_AT_LEAST_ONE: tuple[str, Callable[[Any], bool]] = (">= 1", lambda value: value >= 1)
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "seed": ("to be 0 <= seed < 2**32", lambda value: 0 <= value < 2**32),
    "rounds": _AT_LEAST_ONE,
    "image_size": _AT_LEAST_ONE,
    "num_clients": _AT_LEAST_ONE,
    "local_client": _NONE_OR_MORE,
    "validate_every": _AT_LEAST_ONE,
    "validation_fraction": _SHARE,
    "colour_constancy": _NONE_OR_MORE,
    "loss.class_balance": _SHARE,
    "loss.label_smoothing": _SHARE,
    "loss.logit_adjustment": _NONE_OR_MORE,
    "loss.focal": ("to be 0 or >= 1", lambda value: value == 0 or value >= 1),
    "augment.copies": ("of at least 0", lambda value: value >= 0),
    "augment.mixup": _NONE_OR_MORE,
    "augment.cutmix": _NONE_OR_MORE,
    "augment.erase": ("in [0, 1]", lambda value: 0 <= value <= 1),
    "client.epochs": _AT_LEAST_ONE,
    "client.batch_size": _NONE_OR_MORE,
    "client.backbone_rate": _NONE_OR_MORE,
    "participation.participation_rate": ("in (0, 1]", lambda value: 0 < value <= 1),
    "participation.straggler_rate": _SHARE,
    "participation.corruption_rate": _SHARE,
    "participation.max_update_norm": _NONE_OR_MORE,
    "privacy.clip_norm": _ABOVE_ZERO,
    "privacy.noise_multiplier": _NONE_OR_MORE,
    "privacy.target_epsilon": _NONE_OR_MORE,
    "privacy.budget": _NONE_OR_MORE,
    "privacy.delta": ("in (0, 1)", lambda value: 0 < value < 1),
    "privacy.quantile": _SHARE,
    "ema_decay": _SHARE,
    "tta_views": ("to be 1, 2, 4 or 8", lambda value: value in (1, 2, 4, 8)),
    "checkpoint.every": _AT_LEAST_ONE,
    "checkpoint.keep_last": _AT_LEAST_ONE,
    "checkpoint.keep_best": _NONE_OR_MORE,
}


def check(experiment: Experiment, trained: Experiment) -> None:
    """Refuse values that are out of range.

    Args:
        experiment: as requested.
        trained: as trained.

    Raises:
        UserError: The message names the field.
    """
    for field, (wanted, fits) in _RANGES.items():
        value: Any = operator.attrgetter(field)(experiment)
        if not fits(value):
            raise UserError(f"expected --config.{field} {wanted}, got {value}.")
    client = experiment.client
    for name, optimizer in (
        ("client.optimizer", client.optimizer),
        ("server_optimizer", experiment.server_optimizer),
    ):
        _check_optimizer(name, optimizer.options)
    invalid = experiment.participation.on_invalid
    check_name(invalid, ("stop", "skip"), "what invalid updates do to a run")
    check_name(experiment.checkpoint.tested, ("best", "last"), "the checkpoints to test")
    table_fields.check(experiment)
    check_name(experiment.crop, CROPS, "the values of --config.crop")
    check_name(experiment.setting, ("federated", "centralized", "local"), "the settings")
    folds, fold = experiment.folds, experiment.fold
    if folds and (folds < 2 or not 0 <= fold < folds):
        raise UserError(
            "expected --config.folds >= 2 (or 0: no cross-validation) and --config.fold from 0 to "
            f"folds - 1, got folds={folds} and fold={fold}."
        )
    _check_privacy(experiment, trained)
    check_name(experiment.map_clients, backend.NAMES, "the ways to map over clients")
    schedule(client.schedule, experiment.rounds, client.warmup_rounds)
    _check_choices(experiment)
    augmentation.check(experiment.augment)
    operating.check(experiment.operating)


def _check_choices(holder: Any, path: str = "") -> None:
    """Refuse values of fields that are one of a few words."""
    for field in dataclasses.fields(holder):
        value, name = getattr(holder, field.name), f"{path}{field.name}"
        if choices := field.metadata.get("choices"):
            check_name(value, choices, f"the values of --config.{name}")
        elif dataclasses.is_dataclass(value):
            _check_choices(value, f"{name}.")


def _check_optimizer(name: str, options: dict[str, Any]) -> None:
    """Check ranges common to all of optax, which checks little and would train to NaN instead."""
    for option, value in options.items():
        decay = option in ("b1", "b2", "b3", "momentum", "decay")
        if not isinstance(value, int | float) or isinstance(value, bool):
            # optax has no default for some of these, from which a type could be known
            if value is not None and (decay or option in _NOT_NEGATIVE):
                raise UserError(
                    f"expected --config.{name}.options.{option} to be a number, got {value!r}."
                )
            continue
        if (decay and not 0 <= value < 1) or (option in _NOT_NEGATIVE and value < 0):
            range_ = "in [0, 1)" if decay else ">= 0"
            raise UserError(f"expected --config.{name}.options.{option} {range_}, got {value}.")


def _refuse(what: str, why: str) -> None:
    raise UserError(f"{what} does not go with differential privacy: {why}.")


def _check_privacy(experiment: Experiment, trained: Experiment) -> None:
    """Refuse settings that would void the guarantee, as far as names and numbers show."""
    asked = experiment.privacy
    check_name(asked.unit, ("none", "client", "example"), "the units of privacy")
    check_name(asked.accountant, accounting.ACCOUNTANTS, "the accountants")
    check_name(asked.noise_from, ("secret", "seed"), "the sources of noise")
    if asked.quantile and asked.unit == "example":
        _refuse(
            "--config.privacy.quantile", "only --config.privacy.unit=client has an adaptive clip"
        )
    if trained.privacy.unit == "none":
        return
    if trained.loss.class_balance or trained.loss.logit_adjustment:
        name = "class_balance" if trained.loss.class_balance else "logit_adjustment"
        _refuse(f"--config.loss.{name}", "the class counts that it uses are not protected")
    if asked.unit == "client":
        _check_client(trained)
    else:
        _check_example(trained)


def _check_client(experiment: Experiment) -> None:
    if experiment.aggregator.name != "mean":
        _refuse(
            f"--config.aggregator.name={experiment.aggregator.name}",
            "one client may move its result by more than a mean's share (expected mean)",
        )
    if experiment.keep_updates:
        _refuse("--config.keep_updates", "the clients' messages would lie unprotected in WORKDIR")


def _check_example(experiment: Experiment) -> None:
    for field in ("mixup", "cutmix"):
        if getattr(experiment.augment, field):
            _refuse(f"--config.augment.{field}", "it mixes examples, which are clipped one by one")
    if not experiment.client.batch_size:
        _refuse(
            "--config.client.batch_size=0", "it needs the size that a batch is expected to have"
        )
    if experiment.keep_updates:
        _refuse(
            "--config.keep_updates", "the contributions computed from them would not be protected"
        )


def check_protects(experiment: Experiment) -> None:
    """Refuse fields that would protect something, in an experiment that protects nothing.

    Not part of `check`, so that runs of earlier versions can still be evaluated.

    Raises:
        UserError: The message names the field.
    """
    asked = experiment.privacy
    for name in ("target_epsilon", "budget"):
        if asked.unit == "none" and getattr(asked, name):
            raise UserError(
                f"--config.privacy.{name}={getattr(asked, name):g} protects nothing by itself: "
                "expected --config.privacy.unit=client or example with it, or "
                f"--config.privacy.{name}=0."
            )


def check_statistics(experiment: Experiment, model: Model) -> None:
    """Refuse sums that no noise protects, if the experiment promises privacy.

    Raises:
        UserError: The message names the model.
    """
    if model.statistics and experiment.privacy.unit != "none":
        raise UserError(
            f"model {experiment.model.name} takes sums of all clients' examples before the first "
            "round, which no noise protects: expected --config.privacy.unit=none, got "
            f"{experiment.privacy.unit}; or choose another model."
        )


def check_parts(experiment: Experiment, process: Process) -> None:
    """Refuse parts that do not go together, by their declared properties.

    Args:
        experiment: as trained; names the parts.
        process: built from these parts.

    Raises:
        UserError: The message names the refused parts and the reason.
    """
    algorithm, aggregator = process.algorithm, process.aggregator
    name, aggregator_name = experiment.algorithm.name, experiment.aggregator.name
    if aggregator.needs_loss and algorithm.num_clusters:
        raise UserError(
            f"aggregator {aggregator_name} weighs clients by the loss of one global model, and "
            f"{name} has a model for each cluster: choose another --config.aggregator.name, such "
            "as mean."
        )
    if algorithm.num_clusters > 1 and aggregator.min_clients > 1:
        raise UserError(
            f"aggregator {aggregator_name} needs {aggregator.min_clients} clients in each cluster, "
            f"and how many are in a cluster of {name} is not known before: choose another "
            "--config.aggregator.name, such as median."
        )
    if experiment.ema_decay and not algorithm.traits.supports_ema:
        raise UserError(
            f"--config.ema_decay does not go with {name}: a cluster that is born has no average "
            "yet. Give --config.ema_decay=0."
        )
    if experiment.privacy.unit == "example":
        _check_examples_protected(experiment, process)
    elif experiment.privacy.unit == "client":
        _check_clients_protected(experiment, process)


def _check_examples_protected(experiment: Experiment, process: Process) -> None:
    if not process.algorithm.traits.steps_only:
        _refuse(
            f"algorithm {experiment.algorithm.name}",
            "it uses examples otherwise than by the steps that are accounted (docs/privacy.md "
            "lists those that do not; fed_avg is one)",
        )
    if process.aggregator.needs_loss:
        _refuse(f"aggregator {experiment.aggregator.name}", "the clients' losses are not protected")


def _check_clients_protected(experiment: Experiment, process: Process) -> None:
    algorithm, name = process.algorithm, experiment.algorithm.name
    if algorithm.process_updates is not None:
        _refuse(f"algorithm {name}", "its server reads what single clients send")
    if algorithm.num_clusters and experiment.privacy.quantile:
        _refuse(
            f"--config.privacy.quantile with algorithm {name}",
            "a clip that moves reveals that its cluster has clients",
        )
    for spec, transform in zip(experiment.transforms, process.transforms, strict=True):
        if transform.across:
            _refuse(f"transform {spec.name}", "it changes a message by what other clients send")
    for spec, attack in zip(experiment.attacks, process.faults.attacks, strict=True):
        if attack.messages is not None:
            _refuse(f"attack {spec.name}", "what hostile clients send may depend on the others")
