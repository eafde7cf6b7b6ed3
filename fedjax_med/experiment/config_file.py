"""Reading the experiment of a config file, ``FILE.py`` or ``FILE.py:VARIANT``."""

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedjax_med.errors import UserError, check_name, expand, printable
from fedjax_med.experiment import config, renamed
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.variants import Variant
from fedjax_med.files import read_regular

_LIMIT = 2**20  # bytes of a config file


def read(path: str) -> Experiment:
    """Read the experiment that ``get_config()`` of a config file returns.

    Args:
        path: of the file; ``FILE.py:VARIANT`` stands for ``get_config("VARIANT")`` of FILE.py. A
            file whose whole name is `path` comes first.

    Returns:
        The experiment. If it has no name, it gets that of the file: FILE, or FILE_VARIANT.

    Raises:
        UserError: There is no such file or variant, it does not run, or it returns no `Experiment`.
    """
    file, variant = _split(path)
    source = _source(file, path)
    if variant == "":
        raise UserError(
            f"--config={path}: expected a variant after the colon, got none: give {file}:VARIANT, "
            "or leave the colon out."
        )
    experiment = _run(file, path, source, lambda module: _call(module.get_config, path, variant))
    if not isinstance(experiment, Experiment):
        raise UserError(
            f"--config={path}: expected get_config() to return a "
            f"fedjax_med.experiment.config.Experiment, got {type(experiment).__name__}."
        )
    config.check_types(experiment, Experiment(), f"--config={path}")
    default = f"{file.stem}_{variant}" if variant else file.stem
    return _upgraded(dataclasses.replace(experiment, name=experiment.name or default))


def variants(path: str) -> dict[str, Variant]:
    """Read the table ``VARIANTS`` of the config file at `path`; {} if it has none.

    Raises:
        UserError: There is no such file, or it does not run.
    """
    file = expand(path)
    table = _run(file, path, _source(file, path), lambda module: getattr(module, "VARIANTS", {}))
    return dict(table)


def _split(path: str) -> tuple[Path, str | None]:
    """Split `path` into the file and the variant, None if it has none."""
    whole = expand(path)
    name, colon, variant = path.rpartition(":")
    file = expand(name)
    if colon and not whole.exists() and (file.suffix == ".py" or file.is_file()):
        return file, variant
    return whole, None


def _source(file: Path, path: str) -> bytes:
    """Read the source of the config file that was given as `path`."""
    if file.is_dir():
        names = ", ".join(other.name for other in sorted(file.glob("*.py"))) or "no Python file"
        raise UserError(f"--config={path} is a folder: give one file of it ({names}).")
    if not file.is_file():
        _refuse_missing(file, path)
    if file.suffix != ".py":
        raise UserError(f"--config={path}: expected a Python file (configs/isic9.py is one).")
    try:
        return read_regular(file, _LIMIT)
    except OSError as error:
        raise UserError(
            f"--config={path} cannot be read: {error.strerror or error}. Give a Python file "
            "(configs/isic9.py is one)."
        ) from error


def _refuse_missing(file: Path, path: str) -> None:
    """Refuse a file that does not exist; name the variant that it is now, or the files beside."""
    new = renamed.CONFIG_FILES.get(file.name, "")
    if new and file.with_name(new.partition(":")[0]).is_file():
        raise UserError(f"--config={path} is called --config={file.with_name(new)} now.")
    beside = [str(other) for other in file.parent.glob("*.py")]
    if not beside:
        folder = printable(str(file.parent.absolute()))
        raise UserError(
            f"There is no {printable(str(file))!r}, and no config file in {folder}. The project's "
            "own are in configs/ of its source, not in the installed package: copy one from there, "
            "write a file whose get_config() returns a fedjax_med.Experiment, or give flags alone, "
            "such as --config.dataset.name=lesions."
        )
    check_name(str(file), beside, "the config files")


def _run(file: Path, path: str, source: bytes, use: Callable[[Any], Any]) -> Any:
    """Run the `source` of a config file, and return what `use` makes of its module."""
    module = types.ModuleType("fedjax_med_experiment")
    module.__file__ = str(file)
    # The config files of earlier versions import from there.
    sys.modules.setdefault("fedjax_med.config", config)
    try:
        # Runs the source that was read, with the user's permissions: the file has to be trusted.
        exec(compile(source, str(file), "exec"), module.__dict__)
        return use(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"--config={path} does not run: {reason}") from error


def _call(get_config: Callable[..., Any], path: str, variant: str | None) -> Any:
    """Call ``get_config``, with the variant if there is one; refuse it if it takes none."""
    if variant is None:
        return get_config()
    kinds = {parameter.kind for parameter in inspect.signature(get_config).parameters.values()}
    if kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}:
        raise UserError(
            f"--config={path}: expected a config file with variants, got one whose get_config() "
            f"takes none: give --config={path.removesuffix(f':{variant}')}."
        )
    return get_config(variant)


def _upgraded(experiment: Experiment) -> Experiment:
    """Convert an earlier version's values and options to the current ones."""
    old = {"setting": experiment.setting, "algorithm": vars(experiment.algorithm)}
    new = renamed.upgrade(old)
    return dataclasses.replace(
        experiment, setting=new["setting"], algorithm=Spec(**new["algorithm"])
    )
