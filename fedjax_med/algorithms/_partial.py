"""Splits a model into leaves that are shared and leaves that stay at the client."""

import fnmatch
from typing import Any

import jax

from fedjax_med.core.types import Params
from fedjax_med.errors import UserError, check_name


def _names(path: tuple[Any, ...]) -> list[str]:
    """List the names on the path to a leaf: ``["block_0", "normalisation", "scale"]``."""
    return [jax.tree_util.keystr((entry,), simple=True) for entry in path]


def _matches(names: list[str], pattern: str) -> bool:
    ways = ["/".join(names[: end + 1]) for end in range(len(names))]
    return any(fnmatch.fnmatchcase(text, pattern) for text in (*names, *ways))


def split(params: Params, patterns: tuple[str, ...]) -> tuple[Params, Params]:
    """Split `params` into the shared leaves and the client's own, which match `patterns`.

    Args:
        params: a model's parameters, or a tree of the same structure.
        patterns: each is a name on the path to the matching leaves (``"normalisation"``), or the
            path from the top (``"block_0/normalisation"``); ``*`` matches anything. Without
            patterns all leaves are shared.

    Returns:
        Shared and own, each with the structure of `params` and None for the leaves of the other:
        None is no leaf to JAX, so it is neither sent in a message nor trained.

    Raises:
        UserError: A pattern matches no leaf, or all leaves match.
    """
    leaves, structure = jax.tree.flatten_with_path(params)
    ways = [_names(path) for path, _ in leaves]
    for pattern in patterns:
        if not any(_matches(way, pattern) for way in ways):
            names = {name: None for way in ways for name in way}  # each once
            check_name(pattern, names, "the model's parameters")
    own = [any(_matches(way, pattern) for pattern in patterns) for way in ways]
    if all(own):
        raise UserError(
            f"expected the local leaves {patterns} to leave something of the model to share, but "
            "they are all of it: name fewer."
        )

    def those(mine: bool) -> Params:
        kept = [leaf if one == mine else None for (_, leaf), one in zip(leaves, own, strict=True)]
        return jax.tree.unflatten(structure, kept)

    return those(False), those(True)


def merge(shared: Params, own: Params) -> Params:
    """Merge `shared` and `own` from `split` into the whole parameters."""
    return jax.tree.map(
        lambda one, other: other if one is None else one,
        shared,
        own,
        is_leaf=lambda leaf: leaf is None,
    )
