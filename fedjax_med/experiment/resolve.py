"""Checks an experiment's names, fills in its options, and applies its setting."""

import dataclasses
import inspect
import math
from typing import Any, NamedTuple

from fedjax_med.data.corrections.table import is_shipped
from fedjax_med.errors import UserError, check_name, expand
from fedjax_med.experiment import validation
from fedjax_med.experiment.components import default_options
from fedjax_med.experiment.config import Experiment, Spec, without_federation
from fedjax_med.models.pretrained import exported

USUAL_CLIENTS = 5  # of data that is not divided


def _fits(value: Any, default: Any) -> bool:
    """Return whether the type of `value` suits an option with this default."""
    if default is None or default is inspect.Parameter.empty or callable(default):
        return True
    if isinstance(default, tuple):
        like = default[0] if default else None
        return isinstance(value, list | tuple) and all(_fits(item, like) for item in value)
    kind: Any = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool)


def _typed(value: Any, default: Any, field: str) -> Any:
    """Return `value` if its type is that of `default`; split texts in a list at commas."""
    # An optax mask may be a tree of parameters, whatever its default is.
    if not _fits(value, default) and not field.endswith("_mask"):
        like = f" such as {default}" if isinstance(default, tuple) else ""
        raise UserError(
            f"expected --config.{field} to be of type {type(default).__name__}{like}, got "
            f"{value!r}."
        )
    if isinstance(default, tuple) and all(isinstance(item, str) for item in value):
        return tuple(name for item in value for name in item.split(","))
    return value


def _complete_spec(shelf: str, spec: Spec, field: str) -> Spec:
    defaults = default_options(shelf, spec.name)
    for option in spec.options:
        check_name(option, defaults, f"the options of {field} {spec.name!r}")
    options = {
        name: _typed(spec.options.get(name, default), default, f"{field}.options.{name}")
        for name, default in defaults.items()
        # None and callables cannot be written on a command line: only a config file can set them.
        if name in spec.options
        or not (default is None or default is inspect.Parameter.empty or callable(default))
    }
    missing = [
        name
        for name, default in defaults.items()
        if default is inspect.Parameter.empty and name not in options
    ]
    if missing:
        raise UserError(
            f"{field} {spec.name!r} needs the option {missing[0]!r}: set "
            f"--config.{field}.options.{missing[0]}=... in the config file."
        )
    if options.get("path"):  # a file, by convention; later commands may run in another folder
        options["path"] = str(expand(options["path"]).absolute())
    return Spec(spec.name, options)


def check_values(value: Any, path: str = "") -> None:
    """Refuse values that JSON cannot hold: NaN and infinity, and objects such as functions.

    Args:
        value: an experiment, or a part of it.
        path: dotted name of the part.

    Raises:
        UserError: The message names the field.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        for name, item in value.items():
            check_values(item, f"{path.rstrip('.')}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_values(item, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"expected a finite number for --config.{path}, got {value}.")
    elif not isinstance(value, bool | int | float | str):
        raise UserError(
            f"expected a number, a text, or a list of them for --config.{path}, got "
            f"{type(value).__name__} (--config.client.schedule chooses a learning-rate schedule)."
        )


def complete(experiment: Any, prefix: str = "") -> Any:
    """Check every name in `experiment` and fill in the default of every option not given.

    Raises:
        UserError: A name or an option does not exist, an option has another type than its
            default, or an option without default is missing.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(experiment):
        value, shelf = getattr(experiment, field.name), field.metadata.get("shelf")
        path = prefix + field.name
        if isinstance(value, list) and shelf:
            changes[field.name] = [
                _complete_spec(shelf, item, f"{path}[{index}]") for index, item in enumerate(value)
            ]
        elif shelf:
            changes[field.name] = _complete_spec(shelf, value, path)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = complete(value, path + ".")
        elif path == "groups.path" and value:  # later commands may run in another folder
            changes[field.name] = str(expand(value).absolute())
        elif (
            path in ("pretrained", "corrections", "metadata.path")
            and value
            and not is_shipped(value)
        ):
            parts = value.split("+") if path == "pretrained" else [value]
            changes[field.name] = _whole(value) or "+".join(_whole(one) or one for one in parts)
    return dataclasses.replace(experiment, **changes)


def _whole(name: str) -> str:
    """Return the whole path of a file or of a bundle; "" if it is none."""
    known = expand(name).is_file() or exported.is_bundle(name)
    return str(expand(name).absolute()) if known else ""


class Resolved(NamedTuple):
    """An experiment whose names, options and ranges are checked.

    asked: as requested; recorded in the workdir.
    trained: as trained: in a setting without federation, one client without transforms or faults.
    """

    asked: Experiment
    trained: Experiment


def with_clients(experiment: Experiment, number: int) -> Experiment:
    """Give an experiment that leaves the number of its clients open this `number`."""
    return dataclasses.replace(experiment, num_clients=experiment.num_clients or number)


def check_ranges(experiment: Experiment) -> None:
    """Check the values of a completed experiment, for commands that do not use all of them.

    Raises:
        UserError: A value is out of its range; the message names the field.
    """
    _resolved(experiment)


def settle(experiment: Experiment) -> Resolved:
    """Check the values of a completed experiment, and apply its setting.

    Raises:
        UserError: A value is out of its range; the message names the field.
    """
    return _resolved(experiment)


def _resolved(experiment: Experiment) -> Resolved:
    experiment = with_clients(experiment, USUAL_CLIENTS)
    federated = experiment.setting == "federated"
    trained = experiment if federated else without_federation(experiment)
    validation.check(experiment, trained)
    return Resolved(experiment, trained)
