"""User errors, reported in one line each, and helpers for their messages."""

import difflib
from collections.abc import Iterable

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
