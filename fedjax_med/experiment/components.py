"""Finds the component that a `Spec` names: a file of that name on a shelf; no registry."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

import optax

from fedjax_med.errors import check_name
from fedjax_med.experiment.config import Spec

# Shelves (folders of components) that do not lie directly in the package.
_HOMES = {"datasets": "data.datasets", "partitions": "data.partitions"}


def _home(shelf: str) -> str:
    return f"fedjax_med.{_HOMES.get(shelf, shelf)}"


def names(shelf: str) -> tuple[str, ...]:
    """List the names on `shelf`: the files of its folder, or (``optax``) optax's optimizers."""
    if shelf != "optax":
        files = pkgutil.iter_modules(importlib.import_module(_home(shelf)).__path__)
        # A file that begins with "_" is shared by its neighbours, and a folder is no component.
        return tuple(sorted(f.name for f in files if not f.ispkg and not f.name.startswith("_")))
    return tuple(
        name
        for name, value in sorted(vars(optax).items())
        # lbfgs needs the loss itself; noisy_sgd keeps a random key, which must not be state.
        if not name.startswith(("_", "scale_by_", "lbfgs", "noisy_sgd"))
        and inspect.isfunction(value)
        and "learning_rate" in inspect.signature(value).parameters
    )


def find(shelf: str, name: str) -> Callable[..., Any]:
    """Return the function that builds `name` of `shelf`.

    Raises:
        UserError: There is no such name; the message has the nearest name and lists all.
    """
    place = "optax's optimizers" if shelf == "optax" else f"{_home(shelf).replace('.', '/')}/"
    check_name(name, names(shelf), place)
    if shelf == "optax":
        return getattr(optax, name)  # type: ignore[no-any-return]
    return module(shelf, name).build  # type: ignore[no-any-return]


def module(shelf: str, name: str) -> ModuleType:
    """Import the file `name` of `shelf`, which must exist."""
    return importlib.import_module(f"{_home(shelf)}.{name}")


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
    """Build the component of `shelf` that `spec` names, from `args` and the spec's options."""
    return find(shelf, spec.name)(*args, **spec.options)
