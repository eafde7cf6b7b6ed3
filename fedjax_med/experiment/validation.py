"""What numbers an experiment may have: the others are refused before any data is read."""

import operator
from collections.abc import Callable
from typing import Any

import optax

from fedjax_med.core.types import Array
from fedjax_med.errors import UserError, check_name
from fedjax_med.execution import backend
from fedjax_med.experiment import privacy_plan
from fedjax_med.experiment.config import Experiment

_NOT_NEGATIVE = ("learning_rate", "weight_decay", "eps", "eps_root", "initial_accumulator_value")

_SHARE: tuple[str, Callable[[Any], bool]] = ("in [0, 1)", lambda value: 0 <= value < 1)
_NONE_OR_MORE: tuple[str, Callable[[Any], bool]] = (">= 0", lambda value: value >= 0)
_ABOVE_ZERO: tuple[str, Callable[[Any], bool]] = ("> 0", lambda value: value > 0)
_AT_LEAST_ONE: tuple[str, Callable[[Any], bool]] = (">= 1", lambda value: value >= 1)
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "seed": ("to be 0 <= seed < 2**32", lambda value: 0 <= value < 2**32),
    "rounds": _AT_LEAST_ONE,
    "validate_every": _AT_LEAST_ONE,
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
    "turnout.rate": ("in (0, 1]", lambda value: 0 < value <= 1),
    "turnout.late": _SHARE,
    "turnout.garbage": _SHARE,
    "turnout.largest": _NONE_OR_MORE,
    "privacy.clip_norm": _ABOVE_ZERO,
    "privacy.noise_multiplier": _NONE_OR_MORE,
    "privacy.target_epsilon": _NONE_OR_MORE,
    "privacy.budget": _NONE_OR_MORE,
    "privacy.delta": ("in (0, 1)", lambda value: 0 < value < 1),
    "privacy.quantile": _SHARE,
    "average": _SHARE,
    "views": ("to be 1, 2, 4 or 8", lambda value: value in (1, 2, 4, 8)),
    "checkpoint.every": _AT_LEAST_ONE,
    "checkpoint.keep_last": _AT_LEAST_ONE,
    "checkpoint.keep_best": _NONE_OR_MORE,
}


def schedule(name: str, rounds: int, warmup_rounds: int) -> Callable[[Array], Array]:
    """The learning rate's factor by round, between 0 and 1.

    Args:
        name: ``constant``, or ``cosine``: to 0 at `rounds` (Loshchilov & Hutter, ICLR 2017).
        rounds: of the whole experiment.
        warmup_rounds: rounds in which the factor rises linearly to 1; the first is above 0.

    Raises:
        UserError: There is no such schedule, or the warm-up is not shorter than the experiment.
    """
    check_name(name, ("constant", "cosine"), "the client's schedules")
    if not 0 <= warmup_rounds < max(rounds, 1):
        raise UserError(
            f"expected 0 <= --config.client.warmup_rounds < {rounds} rounds, got {warmup_rounds}."
        )
    main = optax.constant_schedule(1.0)
    if name == "cosine":
        main = optax.cosine_decay_schedule(1.0, max(1, rounds - warmup_rounds))
    if not warmup_rounds:
        return main  # type: ignore[no-any-return]
    rise = optax.linear_schedule(1.0 / (warmup_rounds + 1), 1.0, warmup_rounds)
    return optax.join_schedules([rise, main], [warmup_rounds])  # type: ignore[no-any-return]


def check(experiment: Experiment) -> None:
    """Refuse numbers that no part can work with.

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
    if experiment.algorithm.name == "fed_nova" and client.optimizer.name == "sgd":
        _check_normalised(experiment.algorithm.options, client.optimizer.options)
    check_name(experiment.turnout.bad, ("stop", "skip"), "what bad messages do to a run")
    privacy_plan.check(experiment)
    check_name(experiment.map_clients, backend.NAMES, "the ways to map over clients")
    schedule(client.schedule, experiment.rounds, client.warmup_rounds)


def _check_optimizer(name: str, options: dict[str, Any]) -> None:
    """What holds for all of optax; it checks little itself, and trains to NaN instead."""
    for option, value in options.items():
        decay = option in ("b1", "b2", "b3", "momentum", "decay")
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if (decay and not 0 <= value < 1) or (option in _NOT_NEGATIVE and value < 0):
            range_ = "in [0, 1)" if decay else ">= 0"
            raise UserError(f"expected --config.{name}.options.{option} {range_}, got {value}.")


def _check_normalised(algorithm: dict[str, Any], optimizer: dict[str, Any]) -> None:
    """FedNova is not told how its clients step, and with another momentum than theirs is biased."""
    assumed, momentum = algorithm.get("momentum", 0.0), optimizer.get("momentum") or 0.0
    if optimizer.get("nesterov"):
        raise UserError(
            "expected algorithm fed_nova to have clients without nesterov, whose steps it does not "
            "normalise, got --config.client.optimizer.options.nesterov=True."
        )
    if assumed != momentum:
        raise UserError(
            f"expected algorithm fed_nova to have the momentum of the clients' sgd, {momentum}, "
            f"got {assumed}: set --config.algorithm.options.momentum={momentum}."
        )
