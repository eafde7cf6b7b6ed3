"""Mistakes a user can make, told in one line each."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the input; the command line prints its one line and ends with exit code 2.

    The message says what was expected, what was given and what to do.
    """


def check_name(name: str, names: Iterable[str], where: str) -> None:
    """Refuse a name that does not exist, and name the nearest one that does.

    Args:
        name: What the user wrote.
        names: What there is.
        where: The place searched, as it reads after "in" (``"fedjax_med/algorithms/"``).

    Raises:
        UserError: `name` is not one of `names`.
    """
    known = sorted(names)
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(
        f"There is no {name!r} in {where}.{hint} There are: {', '.join(known) or 'none'}."
    )
