"""A federation of arrays that a program already holds."""

import operator
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from fedjax_med.core.trees import name_of
from fedjax_med.data.client_data import ClientData
from fedjax_med.data.dataset import Split
from fedjax_med.data.spelling import shown, spellings
from fedjax_med.errors import UserError


def from_arrays(
    inputs: Any, labels: Any, clients: npt.ArrayLike, *, num_clients: int = 0
) -> ClientData:
    """Divide arrays among the clients that hold them.

    Args:
        inputs: images uint8 [N, H, W, 3]; or, with a loss of one's own, any pytree of arrays with N
            rows each. NaN is allowed: it may be a missing value that `prepare` or the loss
            replaces. On a device, 64-bit numbers become 32-bit.
        labels: int [N], the classes from 0; or any pytree of arrays with N rows each.
        clients: [N], the client of each example, such as a hospital's number or name; the clients
            are the different values in ascending order.
        num_clients: C, if clients may be without examples: `clients` then holds numbers from 0 to
            C - 1.

    Raises:
        UserError: The arrays differ in length, are empty, hold no numbers or numbers that 32 bits
            cannot hold; a client's id is missing, spelt in two ways, no whole number or out of
            range.
    """
    ids = _ids(clients)
    names, owner = np.unique(ids, return_inverse=True)
    inputs, labels = (
        _arrays(what, tree, len(owner)) for what, tree in (("inputs", inputs), ("labels", labels))
    )
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "biu":
        labels = _as_classes(labels)
    _check_range("inputs", inputs)
    _check_range("labels", labels)
    count = _count(num_clients)
    if count:
        owner = _numbered(names, count)[owner]
    indices = tuple(np.flatnonzero(owner == client) for client in range(count or len(names)))
    return ClientData(_split(inputs, labels, owner), indices)


def _ids(clients: Any) -> npt.NDArray[Any]:
    """Return the client of each example, names or whole numbers: [N]."""
    # Not by NumPy's rules: they make "nan" of a missing name in a list, and "1" of a number.
    ids = np.asarray(clients, object if isinstance(clients, list | tuple) else None)
    if ids.ndim != 1:
        raise UserError(f"expected one client id for each example, got {ids.dtype} {ids.shape}.")
    if not len(ids):
        raise UserError("expected at least one example, got no client ids.")
    if ids.dtype == object:
        ids = _of_one_kind(ids)
    if ids.dtype.kind == "f":
        ids = _whole(ids)
    if ids.dtype.kind not in "biuUS":
        raise UserError(
            "expected one client id for each example, a name or a whole number, got an array of "
            f"dtype {ids.dtype}."
        )
    if ids.dtype.kind == "U" and (same := spellings(np.unique(ids).tolist())):
        raise UserError(
            f"expected one spelling of each client's name, got {' and '.join(shown(same[0]))}: "
            "choose one, such as with numpy.where(clients == OTHER, ONE, clients)."
        )
    return ids


def _of_one_kind(ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert Python's objects to an array of names or of numbers."""
    kinds: tuple[tuple[Any, ...], ...] = ((str,), (int, float, np.number, np.bool_))
    wanted = next((kind for kind in kinds if isinstance(ids[0], kind)), kinds[0])
    wrong = [row for row, one in enumerate(ids) if not isinstance(one, wanted)]
    if wrong:
        raise UserError(
            "expected one client id for each example, all names or all whole numbers, got "
            f"{ids[wrong[0]]!r} in row {wrong[0]}: give each example its client, or leave it out."
        )
    return np.array(ids.tolist())


def _whole(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Convert floats that are whole numbers."""
    wrong = np.flatnonzero(~(np.abs(ids) < 2**53) | (ids != np.floor(ids)))
    if len(wrong):
        raise UserError(
            "expected one client id for each example, a name or a whole number, got "
            f"{ids[wrong[0]]} in row {wrong[0]}."
        )
    return ids.astype(np.int64)


def _count(num_clients: Any) -> int:
    try:
        count = operator.index(num_clients)
    except TypeError:
        count = -1
    if count < 0:
        raise UserError(
            f"expected num_clients to be a whole number, 0 for the clients' own, got "
            f"{num_clients!r}."
        )
    return count


def _arrays(what: str, tree: Any, rows: int) -> Any:
    """Convert the leaves of `tree` to arrays of `rows` numbers."""
    try:
        arrays = np.asarray(tree) if isinstance(tree, list) else jax.tree.map(np.asarray, tree)
    except ValueError as error:
        raise UserError(f"expected {what} as arrays, got a list of unequal rows.") from error
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    if not leaves:
        raise UserError(
            f"expected {what} with {rows} rows, as many as there are client ids, got {tree!r}: a "
            f"loss that needs no {what} may be given numpy.zeros({rows})."
        )
    for path, leaf in leaves:
        name = f"{what} {name_of(path)}" if path else what
        if leaf.ndim == 0 or len(leaf) != rows:
            raise UserError(
                f"expected {what} with {rows} rows, as many as there are client ids, got "
                f"{f'{name_of(path)}, ' if path else ''}an array of shape {list(leaf.shape)}."
            )
        if not (np.issubdtype(leaf.dtype, np.bool_) or jax.numpy.issubdtype(leaf.dtype, np.number)):
            numbers = "numpy.unique(labels, return_inverse=True)[1] numbers the classes"
            raise UserError(
                f"expected {name} as an array of numbers, got dtype {leaf.dtype}: "
                f"{numbers if what == 'labels' else 'give each category a number or a column'}."
            )
    return arrays


def _check_range(what: str, tree: Any) -> None:
    """Refuse numbers that wrap or become infinite in the 32 bits of a device."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        if dtype == leaf.dtype:
            continue
        with np.errstate(over="ignore"):
            there = leaf.astype(dtype)
        lost = np.isinf(there) & ~np.isinf(leaf) if leaf.dtype.kind == "f" else there != leaf
        if lost.any():
            row = int(np.argmax(lost.reshape(len(leaf), -1).any(axis=1)))
            raise UserError(
                f"expected {what}{f' {name_of(path)}' if path else ''} within the range of {dtype}"
                f", which {leaf.dtype} becomes on a device, got {leaf[lost][0]} in row {row}: "
                "scale it, or number its values."
            )


def _as_classes(labels: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Convert whole numbers, or bools, to int32 classes."""
    largest = np.iinfo(np.int32).max
    if labels.size and not 0 <= labels.min() <= labels.max() <= largest:
        raise UserError(f"expected labels from 0, got {labels.min()} to {labels.max()}.")
    return labels.astype(np.int32)


def _numbered(names: npt.NDArray[Any], num_clients: int) -> npt.NDArray[np.int64]:
    """Check that the `names` of clients are numbers below `num_clients`."""
    whole = np.issubdtype(names.dtype, np.integer)
    if not whole or (names.size and not 0 <= names.min() <= names.max() < num_clients):
        raise UserError(
            f"expected clients numbered from 0 to {num_clients - 1}, as num_clients={num_clients} "
            f"says, got {names.tolist()[:5]}: number them, or leave num_clients out."
        )
    return names.astype(np.int64)


def _split(inputs: Any, labels: Any, owner: npt.NDArray[np.int64]) -> Split:
    """Build a split whose examples come from no file."""
    rows = len(owner)
    return Split(
        image=inputs,
        label=labels,
        name=np.arange(rows).astype(np.str_),
        sha256=np.full(rows, ""),
        image_hash=np.zeros((rows, 32), np.uint8),
        client=owner.astype(np.int32),
    )
