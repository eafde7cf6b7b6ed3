"""Some leaves of a model apart from the others: what stays at a client, and what it shares."""

import fnmatch
from typing import Any

import jax

from fedjax_med.core.types import Params
from fedjax_med.errors import UserError, check_name


def _names(path: tuple[Any, ...]) -> list[str]:
    """The names on the way to a leaf, from the top: ``["block_0", "normalisation", "scale"]``."""
    return [jax.tree_util.keystr((entry,), simple=True) for entry in path]


def _matches(names: list[str], pattern: str) -> bool:
    ways = ["/".join(names[: end + 1]) for end in range(len(names))]
    return any(fnmatch.fnmatchcase(text, pattern) for text in (*names, *ways))


def split(params: Params, patterns: tuple[str, ...]) -> tuple[Params, Params]:
    """`params` in two: what is shared, and the leaves that `patterns` name.

    Args:
        params: of a model, or anything of its structure.
        patterns: each is a name on the way to the leaves that it means (``"normalisation"``), or
            the way itself from the top (``"block_0/normalisation"``); ``*`` stands for anything.
            Without any, all leaves are shared.

    Returns:
        Shared and own, each of the structure of `params` with None for the leaves of the other: no
        leaf at all to JAX, so that it takes neither a place in a message nor a step of training.

    Raises:
        UserError: A pattern means no leaf, or all leaves are meant.
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


def join(shared: Params, own: Params) -> Params:
    """The whole of which `split` made `shared` and `own`."""
    return jax.tree.map(
        lambda one, other: other if one is None else one,
        shared,
        own,
        is_leaf=lambda leaf: leaf is None,
    )
