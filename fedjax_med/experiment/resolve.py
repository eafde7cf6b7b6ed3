"""Checks an experiment's names, fills in its options, and makes it ready for overrides."""

import ast
import dataclasses
import inspect
import math
from pathlib import Path
from typing import Any

from fedjax_med.errors import UserError, check_name
from fedjax_med.experiment.components import default_options
from fedjax_med.experiment.config import Experiment, Spec

# The fields that are lists of specs; on the command line, names with commas.
LISTS = tuple(
    field.name
    for field in dataclasses.fields(Experiment)
    if "shelf" in field.metadata and field.default_factory is list
)


def _fits(value: Any, default: Any) -> bool:
    """Whether an option whose default is `default` may be `value`, by its type."""
    if default is None or default is inspect.Parameter.empty or callable(default):
        return True
    if isinstance(default, tuple):
        like = default[0] if default else None
        return isinstance(value, list | tuple) and all(_fits(item, like) for item in value)
    kind: Any = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool)


def _typed(value: Any, default: Any, field: str) -> Any:
    """`value`, if its type is that of `default`; a text with commas in a list is several."""
    # A mask of optax may be a tree of parameters, whatever its default is.
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
        # None and callables have no form on a command line: given in a config file or left alone.
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
    if options.get("path"):  # a file, by convention: found from any folder the next command runs in
        options["path"] = str(Path(options["path"]).expanduser().absolute())
    return Spec(spec.name, options)


def check_values(value: Any, path: str = "") -> None:
    """Refuse what has no form in JSON: NaN and infinity, and objects such as functions.

    Args:
        value: an experiment, or a part of it.
        path: of the part.

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
        UserError: A name or an option does not exist, an option is of another type than its
            default, or one without default is missing.
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
        elif path == "pretrained" and value and Path(value).expanduser().is_file():
            changes[path] = str(Path(value).expanduser().absolute())
    return dataclasses.replace(experiment, **changes)


def _place(experiment: Experiment, path: str) -> tuple[Any, Any, str]:
    """Where the spec at `path` is: the attributes or the list, its key in them, and the shelf."""
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
    """Point the spec at `path` to `name`; keep the options that the new one also has."""
    holder, key, shelf = _place(experiment, path)
    if holder[key].name == name:
        return
    known = default_options(shelf, name)
    options = {option: value for option, value in holder[key].options.items() if option in known}
    holder[key] = Spec(name, options)


def _give_type(experiment: Experiment, path: str, value: str) -> None:
    """Put the value of an option whose default is None in place, so that it has a type.

    Optax has such options (the momentum of ``sgd``); ml-collections parses by the type it finds.
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
    """The dotted names of all fields inside `holder`."""
    if dataclasses.is_dataclass(holder) and not isinstance(holder, type):
        holder = {field.name: getattr(holder, field.name) for field in dataclasses.fields(holder)}
    if not isinstance(holder, dict):
        return []
    here = [f"{prefix}.{name}" for name in holder]
    return here + [
        path for name, value in holder.items() for path in paths(value, f"{prefix}.{name}")
    ]


def _check_path(experiment: Experiment, path: str) -> None:
    """Refuse an override of a field that does not exist, and name the nearest one."""
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


def _take_names(experiment: Experiment, path: str, value: str) -> None:
    """Put the spec or the specs that an override names in place."""
    if path in LISTS:
        setattr(experiment, path, [Spec(name) for name in value.split(",") if name])
    if path.endswith(".name"):
        _check_path(experiment, path)
        _rename_spec(experiment, path.removesuffix(".name"), value)


def prepare_overrides(experiment: Experiment, arguments: list[str]) -> Experiment:
    """Complete `experiment` so that ml-collections can apply the overrides in `arguments`.

    A changed name (``--config.algorithm.name=...``) or list of names (``--config.transforms=...``)
    takes effect here, since it decides which options there are.

    Args:
        experiment: What the config file gave.
        arguments: The command line; only those that begin with ``--config.`` matter.

    Raises:
        UserError: An override names a field or option that does not exist.
    """
    overrides = []
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config."):
            overrides.append((name.removeprefix("config."), equals, value))
    for path, equals, value in overrides:
        if not equals:
            raise UserError(f"--config.{path}: expected a value, as in --config.{path}=...")
        _take_names(experiment, path, value)
    for path, _, value in overrides:
        _give_type(experiment, path, value)
    experiment = complete(experiment)
    for path, _, _ in overrides:
        if path not in LISTS:
            _check_path(experiment, path)
    return experiment
