"""The texts of ``fedjax-med help`` and ``fedjax-med COMMAND --help``."""

import dataclasses
import importlib
import pkgutil
import textwrap
from types import ModuleType
from typing import Any

from absl import flags as absl_flags

from fedjax_med import __version__
from fedjax_med.algorithms._adaptive import SERVER_OPTIMIZERS
from fedjax_med.cli import commands
from fedjax_med.experiment import components, config

_WIDTH = 98  # of the help, indented by two


def commands_by_name() -> dict[str, ModuleType]:
    """Import the commands: the files of `cli/commands`."""
    return {
        module.name: importlib.import_module(f"fedjax_med.cli.commands.{module.name}")
        for module in pkgutil.iter_modules(commands.__path__)
        if not module.ispkg and not module.name.startswith("_")
    }


def usage() -> str:
    """Describe each command in a line."""
    lines = [
        f"fedjax-med {__version__}: federated learning for medical images.",
        "",
        "  fedjax-med COMMAND [--flag=value ...]",
        "",
    ]
    for name, module in commands_by_name().items():
        lines.append(f"  {name:<15}{(module.__doc__ or '').splitlines()[0]}")
    lines += ["", "`fedjax-med COMMAND --helpshort` lists a command's flags."]
    return "\n".join(lines)


def command_help(name: str, module: ModuleType, flags: absl_flags.FlagValues) -> str:
    """Describe the command `name` and its flags; of a config, all fields."""
    lines = [f"fedjax-med {name}: {(module.__doc__ or '').strip()}", ""]
    for key in sorted(flags):
        flag = flags[key]
        if key in ("help", "helpshort") or "." in key or flag.short_name == key:
            continue
        default = "" if flag.default in (None, "") or key == "config" else f" [{flag.default}]"
        lines.append(f"  --{key}{default}: {flag.help}")
    if "config" in flags:
        lines += ["", "Fields of the config, with their values (--config.FIELD=VALUE):"]
        lines += [f"  {line}" for line in _fields(flags.config)]
    return "\n".join(lines)


def _fields(holder: Any, prefix: str = "--config.") -> list[str]:
    """List each field with its value and, if they are few, its possible values."""
    lines: list[str] = []
    for field in dataclasses.fields(holder):
        value, shelf = getattr(holder, field.name), field.metadata.get("shelf", "")
        path = f"{prefix}{field.name}"
        if isinstance(value, config.Spec):
            lines += _spec_lines(path, value, shelf)
        elif shelf:
            lines += _wrapped(f"{path}={','.join(spec.name for spec in value)}", _names(shelf))
            for index, spec in enumerate(value):
                lines += _spec_lines(f"{path}[{index}]", spec, shelf)
        elif dataclasses.is_dataclass(value):
            lines += _fields(value, f"{path}.")
        else:
            choices = ", ".join(field.metadata.get("choices", ()))
            lines += _wrapped(f"{path}={value}", choices)
    return lines


def _wrapped(field: str, choices: str) -> list[str]:
    """Format a field and its choices, in one line if that is short enough."""
    line = f"{field}  ({choices})" if choices else field
    if len(line) <= _WIDTH:
        return [line]
    return [field, *(f"  {part}" for part in textwrap.wrap(f"({choices})", _WIDTH - 2))]


def _names(shelf: str) -> str:
    """List the names that a spec of `shelf` may have."""
    if shelf == "optax":
        return f"any optimizer of optax, {', '.join(SERVER_OPTIMIZERS)}"
    return ", ".join(components.names(shelf))


def _spec_lines(path: str, spec: config.Spec, shelf: str) -> list[str]:
    unset = [
        f"{path}.options.{option}=  (a number; not set)"
        for option, default in components.default_options(shelf, spec.name).items()
        if default is None
        and option not in spec.options
        and not {"dtype", "mask"} & set(option.split("_"))
    ]
    given = [f"{path}.options.{option}={value}" for option, value in spec.options.items()]
    return [*_wrapped(f"{path}.name={spec.name}", _names(shelf)), *given, *unset]
