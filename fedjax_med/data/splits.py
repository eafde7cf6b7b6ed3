"""Divides the training examples among clients, into folds, and into training and validation."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Split
from fedjax_med.data.partitions import (
    FOLDS,
    HOLD_OUT,
    Groups,
    Index,
    by_owner,
    deal,
    generator,
    shuffled_units,
)
from fedjax_med.errors import UserError, printable


def check_clients(found: int, num_clients: int) -> None:
    """Refuse data divided into `found` client folders if another number, not 0, was asked for.

    Raises:
        UserError: The message says how many there are.
    """
    if num_clients not in (0, found):
        raise UserError(
            f"the data is already divided into {found} client folders, but num_clients is "
            f"{num_clients}: set --config.num_clients={found} or leave it out."
        )


def _divided(split: Split, num_clients: int) -> list[Index]:
    """Divide `split` as its client folders already do."""
    found = int(split.client.max()) + 1
    check_clients(found, num_clients)
    return by_owner(split.client, found)


def _check(split: Split, groups: Groups, parts: list[Index], same: Groups) -> None:
    if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(split.num_examples)):
        raise UserError("a partition must give every image to exactly one client.")
    owner = np.empty(split.num_examples, np.int64)
    for client, part in enumerate(parts):
        owner[part] = client
    order = np.argsort(groups, kind="stable")
    separated = (np.diff(groups[order]) == 0) & (np.diff(owner[order]) != 0)
    for position in np.flatnonzero(separated):
        one, other = order[position : position + 2]
        where = f"but go to clients {owner[one]} and {owner[other]}"
        if split.group is None or same[one] == same[other]:
            raise UserError(
                f"{split.name[one]} and {split.name[other]} are the same image, {where}: clean the "
                "data with --config.policy=rarest or drop."
            )
        raise UserError(
            f"{split.name[one]} and {split.name[other]} are of the same group, "
            f"{printable(repr(str(split.group[one])))} of --config.groups, {where}: give both the "
            "same site; or, if two hospitals do have images of it, divide the images into client "
            "folders, which are kept as they are."
        )


def partition(
    split: Split,
    groups: Groups,
    divide: Callable[[Split, Groups], list[Index]],
    num_clients: int,
    same: Groups | None = None,
) -> list[Index]:
    """Divide `split` among the clients, by `divide` or as its client folders already do.

    Args:
        split: ``N`` training examples.
        groups: ``[N]``, duplicates and images of a group share a number and must go to one client.
            (Client folders are kept as they are: they may share images and groups, which the audit
            reports.)
        divide: returns each client's positions, ascending; not used with client folders.
        num_clients: ``C``.
        same: ``[N]``, duplicates alone share a number; None: as `groups`.

    Returns:
        ``C`` index arrays, ascending; each example is in exactly one.

    Raises:
        UserError: `num_clients` differs from the number of client folders, a client gets nothing, a
            group is separated (by a CSV), or an option is invalid.
    """
    if num_clients < 1:
        raise UserError(f"expected num_clients >= 1, got {num_clients}: set --config.num_clients.")
    if not split.num_examples:
        raise UserError("there are no training images to divide: look at `fedjax-med audit`.")
    divided = bool((split.client >= 0).all())
    if divided:
        parts = _divided(split, num_clients)
    else:
        parts = divide(split, groups)
        _check(split, groups, parts, groups if same is None else same)
    for client, part in enumerate(parts):
        if not part.size:
            raise UserError(
                f"client {client} of {num_clients} gets none of the {split.num_examples} images: "
                "lower --config.num_clients or choose another --config.partition."
            )
    return parts


def folds(
    split: Split, groups: Groups, number: int, seed: int, class_names: Sequence[str] = ()
) -> list[Index]:
    """Divide `split` into folds that each have the same share of every class.

    Args:
        split: ``N`` examples.
        groups: ``[N]``, duplicates and images of a group share a number and go to one fold.
        number: the number of folds.
        seed: seeds the division.
        class_names: of the labels, for a message; by default the folders of the images.

    Returns:
        `number` index arrays, ascending; each example is in exactly one.

    Raises:
        UserError: A class has fewer different images, or groups of them, than there are folds.
    """
    held = np.unique(np.stack([groups, split.label]), axis=1)[1]  # a group may have two labels
    labels, counts = np.unique(held, return_counts=True)
    if counts.min(initial=number) < number:
        rarest = labels[counts.argmin()]
        folder = str(split.name[split.label == rarest][0]).partition("/")[0]
        name = class_names[rarest] if class_names else folder
        grouped = split.group is not None
        what = f"{'groups of' if grouped else 'different'} training images"
        raise UserError(
            f"expected at most {counts.min()} folds, since {name!r} has no more {what}, got "
            f"{number}: give fewer --config.folds "
            "(crossvalidate and compare: --folds), or add images."
        )
    allowed = np.ones((number, int(split.label.max()) + 1), bool)
    return deal(split, groups, allowed, generator(seed, FOLDS))


def hold_out(
    split: Split, groups: Groups, index: Index, fraction: float, seed: int, client: int
) -> tuple[Index, Index]:
    """Divide one client's examples into training and validation examples.

    The result depends only on this client's examples, in the order of their names, not on their
    positions in the whole split.

    Args:
        split: the whole split.
        groups: ``[N]``, duplicates and images of a group share a number; they stay together.
        index: this client's examples, ascending.
        fraction: the share to hold out, in ``[0, 1)``; of each class as close to
            ``round(fraction * n)`` as the groups allow, never more, and never the whole class.
        seed: decides, with `client`, which examples are held out.
        client: this client's number.

    Returns:
        The training index and the validation index, both ascending.

    Raises:
        UserError: `fraction` is not in ``[0, 1)``.
    """
    if not 0 <= fraction < 1:
        raise UserError(
            f"expected 0 <= validation_fraction < 1, got {fraction}: set "
            "--config.validation_fraction."
        )
    rng = generator(seed, HOLD_OUT, client)
    validation = sampled(split.label, groups, index, fraction, rng)
    return np.setdiff1d(index, validation, assume_unique=True), validation


def sampled(
    label: npt.NDArray[np.integer],
    groups: Groups,
    index: Index,
    fraction: float,
    rng: np.random.Generator,
) -> Index:
    """Draw a share of each class in whole groups, never the whole class.

    Args:
        label: ``[N]``.
        groups: ``[N]``, examples that share a number stay together.
        index: the examples to draw from, ascending.
        fraction: of each class as close to ``round(fraction * n)`` as the groups allow, and never
            more.
        rng: decides which.

    Returns:
        The examples, ascending.
    """
    size = np.bincount(label[index])
    room = np.minimum(np.rint(fraction * size).astype(np.int64), np.maximum(size - 1, 0))
    drawn: list[Index] = [np.empty(0, np.int64)]
    for unit in shuffled_units(groups, index, rng):
        need = np.bincount(label[unit], minlength=room.size)
        if (need <= room).all():
            drawn.append(unit)
            room -= need
    return np.sort(np.concatenate(drawn))
