"""Limits how deep the values of a JSON text may be nested."""

from typing import Any

_DEPTH = 50  # of nested lists and dictionaries; ours have 10


def check_depth(value: Any) -> None:
    """Refuse lists and dictionaries nested more than 50 deep, without recursion.

    Raises:
        ValueError: `value`, parsed from JSON, is nested too deep.
    """
    level: list[Any] = [[value]]
    for _ in range(_DEPTH):
        parts = (one.values() if isinstance(one, dict) else one for one in level)
        level = [item for part in parts for item in part if isinstance(item, dict | list)]
    if level:
        raise ValueError(f"expected lists and objects nested at most {_DEPTH} deep")
