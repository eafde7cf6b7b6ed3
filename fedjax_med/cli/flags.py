"""Flags that commands share: the experiment, the images, the checkpoint, the processes."""

from absl import flags as absl_flags
from ml_collections import config_flags

from fedjax_med.cli import overrides
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, config_file
from fedjax_med.run.workdir import CACHE_DIR


def _config_path(arguments: list[str]) -> str:
    """Return the value of the last ``--config`` among `arguments`, in either form, or ''."""
    path = ""
    for index, argument in enumerate(arguments):
        if argument in ("--config", "-config"):
            path = arguments[index + 1] if index + 1 < len(arguments) else ""
        elif argument.startswith(("--config=", "-config=")):
            path = argument.partition("=")[2]
    return path


def config_path_given(arguments: list[str]) -> bool:
    """Return whether `arguments` name a config file."""
    return any(argument.partition("=")[0] in ("--config", "-config") for argument in arguments)


def for_absl(arguments: list[str]) -> list[str]:
    """Remove the arguments that `define_config` has used: ``--config=FILE`` and lists of names.

    Of several overrides of a field, keeps only the last: ml-collections would add up tuples.
    """
    taken = {"config", *(f"config.{name}" for name in overrides.LISTS)}
    kept: list[str] = []
    for place, argument in reversed(list(enumerate(arguments))):
        name = argument.lstrip("-").partition("=")[0] if argument.startswith("-") else ""
        if name in taken or arguments[max(place - 1, 0)] in ("--config", "-config"):
            continue
        if name.startswith("config."):
            taken.add(name)
        kept.append(argument)
    return kept[::-1]


def define_config(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the flag ``--config=FILE`` and its overrides ``--config.FIELD=VALUE``."""
    path = _config_path(arguments)
    base = config_file.read(path) if path else config.Experiment()
    experiment = overrides.prepare_overrides(base, arguments)
    config_flags.DEFINE_config_dataclass(
        "config",
        experiment,
        "the experiment's file, such as configs/isic9.py, or FILE.py:VARIANT",
        flag_values=flags,
        sys_argv=["fedjax-med", *for_absl(arguments)],
    )


def define_data(flags: absl_flags.FlagValues) -> None:
    """Define the flags for the folders of the images and of their prepared form."""
    absl_flags.DEFINE_string("data_dir", "", "the folder of the images", flag_values=flags)
    absl_flags.DEFINE_string(
        "cache_dir", CACHE_DIR, "where prepared images are kept", flag_values=flags
    )


def given_cache_dir(flags: absl_flags.FlagValues) -> str:
    """Return ``--cache_dir`` if it was given, else "": a run's own folder precedes the default."""
    return str(flags.cache_dir) if flags["cache_dir"].present else ""


def define_checkpoint(flags: absl_flags.FlagValues) -> None:
    """Define the flag that selects the checkpoint of a run to test."""
    absl_flags.DEFINE_string(
        "checkpoint",
        "",
        "which to test: best (by validation) or last (default: --config.checkpoint.tested)",
        flag_values=flags,
    )


def define_components(flags: absl_flags.FlagValues) -> None:
    """Define the flag that lets a run's components from elsewhere be imported."""
    absl_flags.DEFINE_list(
        "allow_components",
        [],
        "MODULE:FUNCTION,... of the run whose code may be run",
        flag_values=flags,
    )


def define_model(flags: absl_flags.FlagValues) -> None:
    """Define the flag that names a bundle."""
    absl_flags.DEFINE_string(
        "model", "", "a bundle, the folder that `fedjax-med export` wrote", flag_values=flags
    )


def define_begin_anew(flags: absl_flags.FlagValues) -> None:
    """Define the flag that permits a new start if all checkpoints in the workdir are damaged."""
    absl_flags.DEFINE_boolean(
        "begin_anew",
        False,
        "begin at the first round where no checkpoint in the workdir can be read",
        flag_values=flags,
    )


def define_runs(flags: absl_flags.FlagValues, arguments: list[str], what: str) -> None:
    """Define the flags of a command that trains and tests several runs.

    Args:
        flags: of the command.
        arguments: of the command line.
        what: a name for the runs together, used in the default workdir.
    """
    define_config(flags, arguments)
    define_data(flags)
    define_checkpoint(flags)
    define_begin_anew(flags)
    absl_flags.DEFINE_string(
        "workdir",
        "",
        f"where the runs live (default: runs/NAME OF THE CONFIG-{what})",
        flag_values=flags,
    )


def define_processes(flags: absl_flags.FlagValues) -> None:
    """Define the flags that join a command with the same command in other processes."""
    absl_flags.DEFINE_boolean(
        "distributed",
        False,
        "run over all processes of the cluster's job (docs/clusters.md)",
        flag_values=flags,
    )
    absl_flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, where no cluster tells", flag_values=flags
    )
    absl_flags.DEFINE_integer(
        "num_processes", None, "how many processes there are", flag_values=flags
    )
    absl_flags.DEFINE_integer("process_id", None, "which one this is, from 0", flag_values=flags)
    absl_flags.DEFINE_float(
        "connect_timeout", 300.0, "seconds to wait for all processes", flag_values=flags
    )


def check_processes(
    automatic: bool, coordinator: str, num_processes: int | None, process_id: int | None
) -> bool:
    """Return whether the flags request several processes.

    Raises:
        UserError: The flags contradict each other, or one is out of range.
    """
    given = {
        "--coordinator=HOST:PORT": coordinator or None,
        "--num_processes=N": num_processes,
        "--process_id=I": process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == 3:
        return automatic
    if missing or automatic:
        alone = " and without --distributed, which finds them out" if automatic else ""
        raise UserError(f"expected {', '.join(given)} together{alone}, in every process.")
    assert num_processes is not None
    assert process_id is not None
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise UserError(
            f"expected 0 <= --process_id < --num_processes, got {process_id} and {num_processes}."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"expected --coordinator=HOST:PORT, got {coordinator!r}.")
    return True
