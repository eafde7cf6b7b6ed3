"""Command-line overrides of an experiment: ``--config.FIELD=VALUE``."""

import ast
import dataclasses
import inspect
from typing import Any

from fedjax_med.errors import UserError, check_name
from fedjax_med.experiment import renamed
from fedjax_med.experiment.components import default_options
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.resolve import complete

# The fields that are lists of specs; on the command line, names separated by commas.
LISTS = tuple(
    field.name
    for field in dataclasses.fields(Experiment)
    if "shelf" in field.metadata and field.default_factory is list
)


def _place(experiment: Experiment, path: str) -> tuple[Any, Any, str]:
    """Find the spec at `path`: the attributes or list that hold it, its key in them, its shelf."""
    holder: Any = experiment
    *parents, last = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    field, _, index = last.partition("[")
    (shelf,) = [f.metadata["shelf"] for f in dataclasses.fields(holder) if f.name == field]
    if index:
        return getattr(holder, field), int(index.rstrip("]")), shelf
    return vars(holder), field, shelf


def _rename_spec(experiment: Experiment, path: str, name: str) -> None:
    """Rename the spec at `path` to `name`; keep the options that the new component also has."""
    holder, key, shelf = _place(experiment, path)
    if holder[key].name == name:
        return
    known = default_options(shelf, name)
    options = {option: value for option, value in holder[key].options.items() if option in known}
    holder[key] = Spec(name, options)


def _give_type(experiment: Experiment, path: str, value: str) -> None:
    """Set an option whose default is None, so that it has a type for ml-collections to parse by.

    Optax has such options (the momentum of ``sgd``).
    """
    spec_path, _, option = path.rpartition(".options.")
    if not spec_path:
        return
    _check_path(experiment, f"{spec_path}.options")
    holder, key, shelf = _place(experiment, spec_path)
    spec = holder[key]
    if option in spec.options:
        return
    if default_options(shelf, spec.name).get(option, inspect.Parameter.empty) is None:
        try:
            number = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            number = None
        if not isinstance(number, int | float):
            raise UserError(f"--config.{path}={value}: expected a number.")
        spec.options[option] = number


def paths(holder: Any, prefix: str) -> list[str]:
    """List the dotted names of all fields inside `holder`."""
    if dataclasses.is_dataclass(holder) and not isinstance(holder, type):
        holder = {field.name: getattr(holder, field.name) for field in dataclasses.fields(holder)}
    if not isinstance(holder, dict):
        return []
    here = [f"{prefix}.{name}" for name in holder]
    return here + [
        path for name, value in holder.items() for path in paths(value, f"{prefix}.{name}")
    ]


def _check_path(experiment: Experiment, path: str) -> None:
    """Refuse an override of a field that does not exist, and suggest the nearest one."""
    holder: Any = experiment
    seen = "--config"
    for step in path.split("."):
        name, _, index = step.partition("[")
        if isinstance(holder, dict):
            fields = list(holder)
        elif dataclasses.is_dataclass(holder):
            fields = [field.name for field in dataclasses.fields(holder)]
        else:
            raise UserError(f"{seen} is a single value and has no field {step!r}.")
        inner = [path for path in paths(holder, seen) if path.endswith(f".{name}")]
        if name not in fields and inner:
            raise UserError(f"There is no {name!r} in {seen}. Did you mean {' or '.join(inner)}?")
        check_name(name, fields, seen)
        holder = holder[name] if isinstance(holder, dict) else getattr(holder, name)
        seen += "." + step
        if index:
            try:
                holder = holder[int(index.rstrip("]"))]
            except (IndexError, TypeError, ValueError) as error:
                raise UserError(f"{seen}: the config file has no such entry.") from error
    if dataclasses.is_dataclass(holder):
        fields = [field.name for field in dataclasses.fields(holder)]
        raise UserError(f"{seen} is a group of fields: set one of {', '.join(fields)} in it.")


def _check_old(path: str, value: str) -> None:
    """Refuse an override by a name or a value of an earlier version, and say today's."""
    if new := renamed.new_name(path):
        raise UserError(f"--config.{path} is called --config.{new} now.")
    if (new_value := renamed.VALUES.get(path, {}).get(value)) is not None:
        raise UserError(f"--config.{path}={value} is called --config.{path}={new_value} now.")
    field = path.removesuffix(".name")
    if flag := renamed.ELSEWHERE.get(field, {}).get(value):
        raise UserError(f"{value} is no --config.{path}: it is chosen by {flag}.")


def _check_removed(experiment: Experiment, path: str) -> None:
    """Refuse an override of an option that its component no longer has, and say why."""
    field, _, option = path.partition(".options.")
    spec = getattr(experiment, field, None)
    if isinstance(spec, Spec) and (why := renamed.why_removed(field, spec.name, option)):
        raise UserError(f"--config.{path} is not needed any more: {why}. Leave it out.")


def _take_names(experiment: Experiment, path: str, value: str) -> None:
    """Apply an override that names a spec or a list of specs."""
    if path in LISTS:
        setattr(experiment, path, [Spec(name) for name in value.split(",") if name])
    if path.endswith(".name"):
        _check_path(experiment, path)
        _rename_spec(experiment, path.removesuffix(".name"), value)


def prepare_overrides(experiment: Experiment, arguments: list[str]) -> Experiment:
    """Complete `experiment` so that ml-collections can apply the overrides in `arguments`.

    A changed name (``--config.algorithm.name=...``) or list of names (``--config.transforms=...``)
    takes effect here, since it determines the available options.

    Args:
        experiment: from the config file.
        arguments: the command line; only arguments that begin with ``--config.`` matter.

    Raises:
        UserError: An override names a field or option that does not exist.
    """
    overrides = []
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config."):
            overrides.append((name.removeprefix("config."), equals, value))
    for path, equals, value in overrides:
        _check_old(path, value)
        if not equals:
            raise UserError(f"--config.{path}: expected a value, as in --config.{path}=...")
        _take_names(experiment, path, value)
    for path, _, value in overrides:
        _check_removed(experiment, path)
        _give_type(experiment, path, value)
    experiment = complete(experiment)
    for path, _, _ in overrides:
        if path not in LISTS:
            _check_path(experiment, path)
    return experiment
