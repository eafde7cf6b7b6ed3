"""Names that people spell in several ways: when two are the same, and how they are told apart."""

import os
import re
import unicodedata
from collections.abc import Iterable


def folded(name: str) -> str:
    """Return the form that all spellings of a name share.

    Unicode's compatible composed form (NFKC, which unites full and half width) without letter case
    and without characters that are not seen (category Cf); white space, hyphens and underscores
    count as one space, and none at the ends.
    """
    seen = "".join(one for one in name if unicodedata.category(one) != "Cf")
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return re.sub(r"[\s_-]+", " ", text).strip()


def spellings(names: Iterable[str]) -> list[list[str]]:
    """List the names that have several spellings, each as its spellings in order."""
    same: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        same.setdefault(folded(name), []).append(name)
    return [group for group in same.values() if len(group) > 1]


def shown(names: Iterable[str]) -> list[str]:
    """Quote different `names` so that they also look different.

    Letters outside of ASCII are escaped only where the names would look alike without it.
    """
    quoted = list(map(repr, names))
    alike = len({unicodedata.normalize("NFC", one) for one in quoted}) < len(quoted)
    return list(map(ascii, names)) if alike else quoted


def of_file(name: str) -> str:
    """Return a file name, which is bytes and need not be UTF-8, as a text to store and print."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def plain(name: str) -> str:
    """Return a file name without letter case, in Unicode's composed form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
