"""``fedjax-med COMMAND``: finds the command, parses its flags, reports mistakes in one line."""

import dataclasses
import importlib
import pkgutil
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from absl import flags as absl_flags
from absl import logging

from fedjax_med import __version__
from fedjax_med.cli import commands, overrides
from fedjax_med.cli.flags import config_path_given, for_absl
from fedjax_med.errors import UserError, check_name
from fedjax_med.execution import multihost
from fedjax_med.execution.backend import repeat_bits
from fedjax_med.experiment import components, config, resolve
from fedjax_med.files import read_text

_OUT_OF_MEMORY = (
    "out of memory: lower --config.client.batch_size or --config.image_size, or set "
    "--config.map_clients={}, which trains one client at a time{}."
)
_WIDTH = 98  # of the help, indented by two
_FLAGS_LIMIT = 2**20  # bytes of a file of flags
_PATIENCE = 10  # seconds; an error in all processes occurs at about the same time in each


def _commands() -> dict[str, ModuleType]:
    return {
        module.name: importlib.import_module(f"fedjax_med.cli.commands.{module.name}")
        for module in pkgutil.iter_modules(commands.__path__)
        if not module.ispkg and not module.name.startswith("_")
    }


def _usage() -> str:
    lines = [
        f"fedjax-med {__version__}: federated learning for medical images.",
        "",
        "  fedjax-med COMMAND [--flag=value ...]",
        "",
    ]
    for name, module in _commands().items():
        lines.append(f"  {name:<15}{(module.__doc__ or '').splitlines()[0]}")
    lines += ["", "`fedjax-med COMMAND --helpshort` lists a command's flags."]
    return "\n".join(lines)


def _help(name: str, module: ModuleType, flags: absl_flags.FlagValues) -> str:
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
    return "any optimizer of optax" if shelf == "optax" else ", ".join(components.names(shelf))


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


def _plainly(message: str) -> str:
    """Rephrase a parser's message about a flag's value in plain words."""
    for said, meant in (
        ("invalid literal for int", "a whole number"),
        ("could not convert string to float", "a number"),
        ("Non-boolean argument", "true or false"),
    ):
        if said in message and message.startswith("flag "):
            return f"{message.removeprefix('flag ').partition(': ')[0]}: expected {meant}."
    return " ".join(message.split())


def _check_flag_files(arguments: list[str], seen: tuple[str, ...] = ()) -> None:
    """Refuse a file of flags that cannot be read; absl would block on whatever --flagfile names."""
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, given, path = argument.strip().partition("=")
        if flag not in ("--flagfile", "-flagfile"):
            continue
        path = path if given else following.strip()
        if path and path not in seen:
            lines = read_text(Path(path).expanduser(), _FLAGS_LIMIT).splitlines()
            _check_flag_files(lines, (*seen, path))


def parse(name: str, arguments: list[str]) -> tuple[ModuleType, absl_flags.FlagValues]:
    """Find the command `name` and parse its flags from `arguments`.

    Raises:
        UserError: The command, a flag or a field does not exist, or a value does not parse.
    """
    known = _commands()
    check_name(name, known, "the commands of fedjax-med")
    module = known[name]
    _check_flag_files(arguments)
    flags = absl_flags.FlagValues()
    absl_flags.DEFINE_boolean("help", False, "show this help", flag_values=flags)
    absl_flags.DEFINE_boolean("helpshort", False, "show this help", flag_values=flags)
    try:
        module.define_flags(flags, arguments)
        if "config" not in flags and config_path_given(arguments):
            raise UserError(f"{name} takes no --config: the workdir knows its experiment.")
        rest = flags(["fedjax-med", *for_absl(arguments)])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        hint = ""
        if "config" in flags:
            paths = overrides.paths(flags["config"].value, "--config")
            near = [path for path in paths if path.endswith(f".{error.flagname}")]
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
        said = str(error).replace(" ?", "?")
        said += "" if said.endswith("?") else "."
        raise UserError(f"{said}{hint} See fedjax-med {name} --helpshort.") from error
    except (absl_flags.Error, ValueError, TypeError) as error:
        raise UserError(_plainly(str(error))) from error
    if "config" in flags:
        resolve.check_values(flags.config)
        flags["config"].value = resolve.complete(flags.config)  # checks the overrides, too
    if rest:
        raise UserError(f"expected only flags (--name=value) after {name!r}, got {rest[0]!r}.")
    return module, flags


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` names; return the exit code (2: a mistake in the input)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    repeat_bits()
    logging.set_verbosity(logging.ERROR)
    try:
        return _run(arguments)
    except UserError as error:
        which = f" (process {jax.process_index()})" if multihost.active() else ""
        print(f"fedjax-med{which}: {error}", file=sys.stderr)
        return multihost.leave(2, _PATIENCE)
    except KeyboardInterrupt:
        print("fedjax-med: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            one_by_one = ("sequential", "")
            if multihost.active():  # several devices
                one_by_one = ("sharded_sequential", " on each device")
            print(f"fedjax-med: {_OUT_OF_MEMORY.format(*one_by_one)}", file=sys.stderr)
            return multihost.leave(2)
        if multihost.active():
            said = " ".join(str(error).split())[:200]
            print(f"fedjax-med: another process has ended, or the devices: {said}", file=sys.stderr)
            return multihost.leave(2)
        raise


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("help", "--help", "--helpshort", "-h"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    module, flags = parse(arguments[0], arguments[1:])
    if flags.help or flags.helpshort:
        print(_help(arguments[0], module, flags))
        return 0
    if "cache_dir" in flags and not getattr(jax.config, "jax_compilation_cache_dir", None):
        folder = Path(flags.cache_dir).expanduser() / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # Many small programs build the first state. By default, programs that compile in under a
        # second are not cached, and compiling them again would be most of a later start.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "coordinator" in flags and multihost.check_flags(
        flags.distributed, flags.coordinator, flags.num_processes, flags.process_id
    ):
        multihost.initialise(
            flags.coordinator, flags.num_processes, flags.process_id, flags.connect_timeout
        )
    return int(module.run(flags) or 0)
