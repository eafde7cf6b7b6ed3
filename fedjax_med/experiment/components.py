"""Finds the component that a `Spec` names; nothing has to be registered.

A name is a file on a shelf of this package, an entry point of an installed package (group
``fedjax_med.SHELF``), or ``MODULE:FUNCTION`` of any module that Python can import.
"""

import dataclasses
import difflib
import functools
import hashlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import optax

from fedjax_med.algorithms._adaptive import SERVER_OPTIMIZERS
from fedjax_med.core.aggregation import Aggregator, MessageTransform
from fedjax_med.core.algorithm import FederatedAlgorithm
from fedjax_med.core.faults import Attack
from fedjax_med.core.model import Model
from fedjax_med.data.dataset import Dataset
from fedjax_med.errors import UserError, check_name, printable
from fedjax_med.experiment.config import Spec

# Shelves (folders of components) that do not lie directly in the package.
_HOMES = {"datasets": "data.datasets", "partitions": "data.partitions"}
# What the builders of a shelf return; those of the other shelves return functions and lists.
_KINDS: dict[str, type] = {
    "aggregators": Aggregator,
    "algorithms": FederatedAlgorithm,
    "attacks": Attack,
    "datasets": Dataset,
    "models": Model,
    "transforms": MessageTransform,
}


def _home(shelf: str) -> str:
    return f"fedjax_med.{_HOMES.get(shelf, shelf)}"


def _ours(shelf: str) -> tuple[str, ...]:
    """List the files of a shelf, or (``optax``) optax's optimizers and `SERVER_OPTIMIZERS`."""
    if shelf != "optax":
        files = pkgutil.iter_modules(importlib.import_module(_home(shelf)).__path__)
        # A file that begins with "_" is shared by its neighbours, and a folder is no component.
        return tuple(sorted(f.name for f in files if not f.ispkg and not f.name.startswith("_")))
    return *SERVER_OPTIMIZERS, *(
        name
        for name, value in sorted(vars(optax).items())
        # lbfgs needs the loss itself; noisy_sgd keeps a random key, which must not be state.
        if not name.startswith(("_", "scale_by_", "lbfgs", "noisy_sgd"))
        and inspect.isfunction(value)
        and "learning_rate" in inspect.signature(value).parameters
    )


@functools.cache
def _installed(shelf: str) -> dict[str, list[metadata.EntryPoint]]:
    """List the entry points of installed packages for a shelf, by name."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    for point in metadata.entry_points(group=f"fedjax_med.{shelf}"):
        found.setdefault(point.name, []).append(point)
    return found


def names(shelf: str) -> tuple[str, ...]:
    """List the names on `shelf`: files, optimizers (``optax``) and installed components."""
    return tuple(sorted({*_ours(shelf), *_installed(shelf)}))


def find(shelf: str, name: str) -> Callable[..., Any]:
    """Return the function that builds `name` of `shelf`.

    Raises:
        UserError: There is no such name (the message has the nearest name and lists all), several
            have it, or the module that has it does not import.
    """
    if ":" in name:
        return _imported(name)
    if "." in name:
        raise UserError(
            f"expected a component of another package as MODULE:FUNCTION, such as "
            f"{printable(name)}:build, got {printable(name)}."
        )
    place = "optax's optimizers" if shelf == "optax" else f"{_home(shelf).replace('.', '/')}/"
    check_name(name, names(shelf), place)
    points = _installed(shelf).get(name, [])
    if not points and shelf == "optax":
        return SERVER_OPTIMIZERS.get(name) or getattr(optax, name)
    if not points:
        return module(shelf, name).build  # type: ignore[no-any-return]
    if name in _ours(shelf) or len(points) > 1:
        raise UserError(
            f"{name} in {place} is the name of several components: give the one that is meant as "
            f"MODULE:FUNCTION ({', '.join(point.value for point in points)})."
        )
    return _imported(points[0].value)


def _imported(name: str) -> Callable[..., Any]:
    """Import the builder ``MODULE:FUNCTION``; the current folder is searched last."""
    dotted, _, function = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(dotted), function)
    except Exception as error:  # whatever the module raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}{_hint(error, function)}"
        raise UserError(
            f"the component {printable(name)} cannot be imported: {reason}. Expected "
            "MODULE:FUNCTION, with a module that Python finds (installed, on PYTHONPATH, or in the "
            "current folder)."
        ) from error
    if not callable(found):
        raise UserError(
            f"the component {printable(name)}: expected a function that builds it, got "
            f"{type(found).__name__}."
        )
    builder: Callable[..., Any] = found
    return builder


def _hint(error: Exception, function: str) -> str:
    """Suggest a function of the module that has no `function`; "" for other errors."""
    if not isinstance(error, AttributeError) or error.name != function:
        return ""
    functions = [name for name, value in vars(error.obj).items() if inspect.isroutine(value)]
    near = difflib.get_close_matches(function, functions, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def module(shelf: str, name: str) -> Any:
    """Import the file `name` of `shelf`, or the module of a component from elsewhere."""
    if name in _ours(shelf):
        return importlib.import_module(f"{_home(shelf)}.{name}")
    builder = find(shelf, name)
    return sys.modules[getattr(builder, "func", builder).__module__]


def default_options(shelf: str, name: str) -> dict[str, Any]:
    """Return the options of `name` on `shelf` with defaults (`inspect.Parameter.empty`: none).

    On our shelves the keyword-only parameters of ``build`` are the options and the positional ones
    come from the program; in optax every parameter is an option.
    """
    parameters = inspect.signature(find(shelf, name)).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if shelf == "optax" or parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def build(shelf: str, spec: Spec, *args: Any) -> Any:
    """Build the component of `shelf` that `spec` names, from `args` and the spec's options.

    Raises:
        UserError: A component from elsewhere takes other arguments, or returns something else.
    """
    builder = find(shelf, spec.name)
    if spec.name in _ours(shelf):
        return builder(*args, **spec.options)
    try:
        inspect.signature(builder).bind(*args, **spec.options)
    except TypeError as error:
        raise UserError(
            f"the component {spec.name}: {error}; here a builder gets {len(args)} positional "
            "arguments, and its options are keyword-only."
        ) from error
    built, kind = builder(*args, **spec.options), _KINDS.get(shelf)
    if kind is not None and not isinstance(built, kind):
        raise UserError(
            f"the component {spec.name}: expected it to return a {kind.__name__}, got "
            f"{type(built).__name__}."
        )
    return built


def specs(holder: Any) -> Iterator[tuple[str, Spec]]:
    """Yield the components that an experiment, or a part of it, names, each with its shelf."""
    for field in dataclasses.fields(holder):
        value, shelf = getattr(holder, field.name), field.metadata.get("shelf")
        if shelf:
            yield from ((shelf, spec) for spec in (value if isinstance(value, list) else [value]))
        elif dataclasses.is_dataclass(value):
            yield from specs(value)


def from_elsewhere(experiment: Any) -> set[str]:
    """List the components that an experiment names as ``MODULE:FUNCTION``, and import none.

    Entry points are not among them: they are of packages that the user has installed.
    """
    return {spec.name for _, spec in specs(experiment) if ":" in spec.name}


def foreign_sources(holder: Any) -> dict[str, str]:
    """Compute a short digest of the source file of each component from outside this package.

    Args:
        holder: an experiment, or a part of it.
    """
    return {
        f"component {shelf} {spec.name}": _source_digest(find(shelf, spec.name))
        for shelf, spec in specs(holder)
        if spec.name not in _ours(shelf)
    }


def _source_digest(builder: Callable[..., Any]) -> str:
    try:
        file = inspect.getsourcefile(getattr(builder, "func", builder))
    except TypeError:  # an object that is called
        file = inspect.getsourcefile(type(builder))
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else "unknown"
