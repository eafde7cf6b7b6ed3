"""``fedjax-med COMMAND``: finds the command, parses its flags, reports mistakes in one line."""

import errno
import re
import sys
import time
import traceback
from types import ModuleType

import jax
from absl import flags as absl_flags
from absl import logging

from fedjax_med import __version__
from fedjax_med.cli import overrides
from fedjax_med.cli.flags import check_processes, config_path_given, for_absl
from fedjax_med.cli.help_text import command_help, commands_by_name, usage
from fedjax_med.cli.terminal import guarded
from fedjax_med.errors import UserError, check_name, expand
from fedjax_med.execution import multihost
from fedjax_med.execution.backend import check_platforms, repeat_bits
from fedjax_med.execution.program_cache import cache_programs
from fedjax_med.execution.settings import fix_settings
from fedjax_med.experiment import options, resolve
from fedjax_med.files import read_text
from fedjax_med.run.output import discard

_OUT_OF_MEMORY = (
    "out of memory: lower --config.client.batch_size or --config.image_size, or set "
    "--config.map_clients={}, which trains one client at a time{}."
)
# What other programs call it to go on where a run stopped.
_RESUME = ("resume", "resume_from", "resume_from_checkpoint", "auto_resume", "continue", "restore")
_FLAGS_LIMIT = 2**20  # bytes of a file of flags
# Errors of a standard output whose reader, terminal or disk space is gone.
_LOST = (errno.EPIPE, errno.EIO, errno.ENOSPC)
_NEWS = 2  # seconds in which the end of another process is noticed and told
_PATIENCE = 10  # seconds; an error in all processes occurs at about the same time in each


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
            lines = read_text(expand(path), _FLAGS_LIMIT).splitlines()
            _check_flag_files(lines, (*seen, path))


def _flags(name: str) -> absl_flags.FlagValues:
    """Return the flags of the command `name`, with their defaults."""
    flags = absl_flags.FlagValues()
    commands_by_name()[name].define_flags(flags, [])
    return flags


def _elsewhere(arguments: list[str], error: UserError) -> str:
    """Say whose the flags are that a message advises and the command does not have."""
    known, name = commands_by_name(), "".join(arguments[:1])
    if name not in known:
        return ""
    advised = set(re.findall(r"(?<![\w-])--([a-z_]+)", str(error))) - set(_flags(name))
    owners = [
        (flag, [other for other in known if flag in _flags(other)]) for flag in sorted(advised)
    ]
    said = [
        f" --{flag} is a flag of {', '.join(others)}, not of {name}."
        for flag, others in owners
        if others
    ]
    return "".join(said)


def parse(name: str, arguments: list[str]) -> tuple[ModuleType, absl_flags.FlagValues]:
    """Find the command `name` and parse its flags from `arguments`.

    Raises:
        UserError: The command, a flag or a field does not exist, or a value does not parse.
    """
    known = commands_by_name()
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
        if error.flagname in _RESUME:
            raise UserError(
                f"There is no --{error.flagname}, and none is needed: give the same command again, "
                "with the same --workdir, and the run goes on after its last checkpoint."
            ) from error
        said = str(error).replace(" ?", "?")
        said += "" if said.endswith("?") else "."
        raise UserError(f"{said}{hint} See fedjax-med {name} --helpshort.") from error
    except (absl_flags.Error, ValueError, TypeError) as error:
        raise UserError(_plainly(str(error))) from error
    if "config" in flags:
        resolve.check_values(flags.config)
        flags["config"].value = resolve.complete(flags.config)  # checks the overrides, too
        resolve.check_ranges(flags.config)
    if rest:
        raise UserError(f"expected only flags (--name=value) after {name!r}, got {rest[0]!r}.")
    return module, flags


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` names; return the exit code (2: a mistake in the input)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    repeat_bits()
    _fix_settings()
    logging.set_verbosity(logging.ERROR)
    with guarded():
        return _reported(arguments)


def _reported(arguments: list[str]) -> int:
    """Run the command; print in one line what the user can do something about."""
    try:
        return _run(arguments)
    except UserError as error:
        which = f" (process {jax.process_index()})" if multihost.active() else ""
        print(f"fedjax-med{which}: {error}{_elsewhere(arguments, error)}", file=sys.stderr)
        return multihost.leave(2, _PATIENCE)
    except KeyboardInterrupt:
        print("fedjax-med: interrupted.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None:
            return _output_lost(error)
        print(f"fedjax-med: {error.filename}: {error.strerror}.", file=sys.stderr)
        return multihost.leave(2, _PATIENCE)
    except Exception as error:
        return _fault(error)


def _fault(error: Exception) -> int:
    """Tell of a lack of memory, or end a fault in one of several processes; return the exit code.

    Raises:
        Exception: `error`, of a single process.
    """
    of_devices = isinstance(error, jax.errors.JaxRuntimeError)
    if isinstance(error, MemoryError) or (of_devices and "RESOURCE_EXHAUSTED" in str(error)):
        one_by_one = ("sequential", "")
        if multihost.active():  # several devices
            one_by_one = ("sharded_sequential", " on each device")
        print(f"fedjax-med: {_OUT_OF_MEMORY.format(*one_by_one)}", file=sys.stderr)
        return multihost.leave(2)
    if not multihost.active():
        raise error
    if of_devices:
        time.sleep(_NEWS)
        said = " ".join(str(error).split())[:200]
        print(f"fedjax-med: another process has ended, or the devices: {said}", file=sys.stderr)
        return multihost.leave(2)
    traceback.print_exception(error)
    return multihost.leave(1)  # at once: an orderly end would wait for the others


def _fix_settings() -> None:
    for name, value in fix_settings().items():
        print(
            f"fedjax-med: {name.upper()}={value} would change every number, so this command goes "
            f"by {getattr(jax.config, name)}.",
            file=sys.stderr,
        )


def _output_lost(error: OSError) -> int:
    """Return the exit code where standard output cannot be written; a closed pipe is no mistake.

    Raises:
        OSError: `error`, which is not of standard output.
    """
    if error.errno not in _LOST:
        raise error
    discard(sys.stdout)
    if error.errno != errno.EPIPE:
        reason = error.strerror or error
        print(f"fedjax-med: standard output cannot be written ({reason}).", file=sys.stderr)
    return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("help", "--help", "--helpshort", "-h"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    module, flags = parse(arguments[0], arguments[1:])
    _fix_settings()  # again: the config file and the components were imported
    if flags.help or flags.helpshort:
        print(command_help(arguments[0], module, flags))
        return 0
    if "config" in flags:
        options.check(flags.config)
    if "cache_dir" in flags:
        cache_programs(flags.cache_dir)
    if "coordinator" in flags and check_processes(
        flags.distributed, flags.coordinator, flags.num_processes, flags.process_id
    ):
        multihost.initialise(
            flags.coordinator, flags.num_processes, flags.process_id, flags.connect_timeout
        )
    check_platforms()
    return int(module.run(flags) or 0)
