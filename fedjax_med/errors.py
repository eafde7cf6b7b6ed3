"""User errors, reported in one line each; checks of names and paths that users give."""

import contextlib
import difflib
import errno
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_LONGEST = 2_000  # characters of a message
_SHOWN = 20  # names in a message
_COMPARED = 5_000  # names compared to find the nearest; each takes some microseconds


class UserError(Exception):
    """A mistake in the input; the command line prints it in one line and ends with exit code 2.

    The message says what was expected, what was given and what to do. Text from an untrusted file
    can neither control the terminal, add lines nor make the message long.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message.replace("\n", " "), _LONGEST))


@contextlib.contextmanager
def fitting(shapes: object) -> Iterator[None]:
    """Turn the errors of arrays that do not go together into one line about the examples.

    Errors of JAX's own classes, such as an ``if`` on a traced value in the user's code, stay.

    Args:
        shapes: those of the examples, to be shown.
    """
    try:
        yield
    except (TypeError, ValueError, KeyError) as error:
        if type(error).__module__.startswith("jax"):
            raise
        reason = " ".join(str(error).split())[:300]
        reason = f"there is no {reason}" if isinstance(error, KeyError) else reason
        raise UserError(
            f"the examples ({shapes}) do not fit the model or its loss, or the parameters are of "
            f"another model: {reason}"
        ) from error


@contextlib.contextmanager
def calling(what: str) -> Iterator[None]:
    """Turn the errors of a function that the user gave into one line that names it as `what`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error).__module__.startswith("jax"):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{what} failed: {type(error).__name__}: {reason}") from error


# What an attribute belongs to that a part of an algorithm lacks.
_LACKING = {
    "init": "an optax optimizer, such as optax.sgd(0.1)",
    "update": "an optax optimizer, such as optax.sgd(0.1)",
    "optimizer": "a LocalTrainer",
}


@contextlib.contextmanager
def optimizers() -> Iterator[None]:
    """Turn the error of an optimizer that is none, or was not called, into one line."""
    try:
        yield
    except AttributeError as error:
        if error.name not in _LACKING:
            raise
        raise UserError(f"expected {_LACKING[error.name]}, got {described(error.obj)}.") from error


def check_kind(what: str, value: object, kind: type) -> None:
    """Refuse a `value` of another type than `kind`, such as a ``build`` that was not called."""
    if not isinstance(value, kind):
        raise UserError(f"expected {what} to be of type {kind.__name__}, got {described(value)}.")


def described(value: object) -> str:
    """Say what `value` is, and what to do with it if it is a function or a module."""
    if inspect.ismodule(value):
        return f"the module {value.__name__}: call its function, as in {value.__name__}.build(...)"
    if inspect.isroutine(value):
        return f"the function {value.__qualname__}: call it, as in {value.__name__}(...)"
    if isinstance(value, str | int | float | None):
        return printable(repr(value))
    return f"a value of type {type(value).__name__}"


def check_signature(what: str, function: Any, parameters: str) -> None:
    """Refuse a function that cannot be called with so many positional arguments.

    Args:
        what: the function, as it reads after "expected".
        function: to be called.
        parameters: their names, separated by commas.
    """
    if not callable(function):
        raise UserError(f"expected {what} to take ({parameters}), got {described(function)}.")
    try:
        inspect.signature(function).bind(*parameters.split(","))
    except TypeError as error:
        where = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
        raise UserError(
            f"expected {what} to take ({parameters}), got {where.strip('.')}: {error}."
        ) from error
    except ValueError:  # it tells no signature
        pass


def printable(text: str, limit: int = 100) -> str:
    """Shorten `text` to about `limit` characters and escape unprintable characters."""
    if len(text) > limit:
        text = f"{text[: limit * 3 // 4]} [...] {text[-limit // 4 :]}"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def some(names: Iterable[str]) -> str:
    """List the first names, printable, and how many more there are."""
    known = list(names)
    more = len(known) - _SHOWN
    shown = ", ".join(map(printable, known[:_SHOWN]))
    return f"{shown} and {more:,} more" if more > 0 else shown


def check_name(name: str, names: Iterable[str], where: str) -> None:
    """Refuse a name that does not exist, and suggest the nearest one that does.

    Args:
        name: as the user wrote it.
        names: the existing names; of more than 20, the nearest come first and 20 are listed.
        where: the place searched, as it reads after "in" (``"fedjax_med/algorithms/"``).

    Raises:
        UserError: `name` is not one of `names`.
    """
    known = sorted(names)
    if name in known:
        return
    near = _nearest(name, known)
    hint = f" Did you mean {printable(repr(near[0]))}?" if near else ""
    if len(known) > _SHOWN:
        known = list(dict.fromkeys(near + known))
    raise UserError(
        f"There is no {printable(repr(name))} in {where}.{hint} There are: {some(known) or 'none'}."
    )


def _nearest(name: str, known: list[str]) -> list[str]:
    # Much longer names are not near, and take long to compare.
    compared = [one for one in known if len(one) <= 3 * len(name)][:_COMPARED]
    return difflib.get_close_matches(name, compared, n=_SHOWN, cutoff=0.5) if compared else []


def expand(path: str | Path) -> Path:
    """Replace ``~`` at the beginning of `path` by the home folder.

    Raises:
        UserError: No file can have this name, or there is no such home folder.
    """
    try:
        expanded = Path(path).expanduser()
        expanded.lstat()
    except RuntimeError as error:  # as in a container whose user has no entry
        raise UserError(
            f"{path}: HOME is not set, or there is no such user: set HOME, or give whole paths "
            "(--cache_dir=FOLDER for prepared data)."
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{printable(str(path), 200)} cannot be the name of a file: {reason}."
            ) from error
    return expanded
