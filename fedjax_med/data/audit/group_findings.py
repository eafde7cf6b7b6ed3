"""What an audit says of groups of images: how many there are, and where one is in two places."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Dataset
from fedjax_med.errors import printable

_EXAMPLES = 10  # listed in the table per finding


class SharedGroup(NamedTuple):
    """A group with images in several places, Train and Test or several hospitals."""

    group: str
    train: tuple[str, ...]  # the names of its images in Train, hospital by hospital
    test: tuple[str, ...]  # and in Test


class GroupFindings(NamedTuple):
    """What was found of the groups; copies of an image belong to its group."""

    path: str  # of the table
    column: str
    sha256: str  # of the table
    images: int  # of Train and Test
    known: int  # images that have a group in the table
    groups: int
    together: int  # images in groups of two or more
    largest: tuple[str, int]  # a group with the most images, and their number
    train_in_test: tuple[str, ...]  # images of Train whose group is also in Test
    across: tuple[SharedGroup, ...]  # groups in Train and in Test
    hospitals: tuple[SharedGroup, ...]  # groups in two hospitals' folders or more


def find(
    dataset: Dataset, united: npt.NDArray[np.str_], names: Sequence[str]
) -> GroupFindings | None:
    """Look for groups that are in two places; None if the images have no groups.

    Args:
        dataset: with the groups of the table.
        united: of all images, Train before Test, after the groups of an image were united.
        names: of all images, to print.
    """
    table, train, test = dataset.groups, dataset.train, dataset.test
    if table is None or train.group is None or test.group is None:
        return None
    known = np.concatenate([train.group, test.group]) != ""
    groups, inverse = np.unique(united, return_inverse=True)
    named = np.isin(np.arange(len(groups)), inverse[known])
    sizes = np.bincount(inverse, minlength=len(groups)) * named
    within = _members(inverse, named & (sizes > 1))
    size, most = train.num_examples, int(sizes.argmax())
    across, hospitals = [], []
    for number, images in within.items():
        of_train, of_test = images[images < size], images[images >= size]
        shared = SharedGroup(
            str(groups[number]),
            tuple(names[image] for image in of_train),
            tuple(names[image] for image in of_test),
        )
        across += [shared] if len(of_train) and len(of_test) else []
        hospitals += [shared] if len(np.unique(train.client[of_train])) > 1 else []
    return GroupFindings(
        *table,
        images=len(known),
        known=int(known.sum()),
        groups=int(named.sum()),
        together=int(sizes[sizes > 1].sum()),
        largest=(str(groups[most]), int(sizes[most])),
        train_in_test=tuple(name for shared in across for name in shared.train),
        across=tuple(across),
        hospitals=tuple(hospitals),
    )


def _members(
    inverse: npt.NDArray[np.intp], wanted: npt.NDArray[np.bool_]
) -> dict[int, npt.NDArray[np.intp]]:
    """Return the positions of the images of each `wanted` group."""
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(np.bincount(inverse, minlength=len(wanted)))
    return {
        number: order[ends[number - 1] if number else 0 : ends[number]]
        for number in np.flatnonzero(wanted).tolist()
    }


def to_json(found: GroupFindings) -> dict[str, Any]:
    """Convert the findings to dictionaries and lists that JSON can hold."""
    across, hospitals = (
        [one._asdict() for one in each] for each in (found.across, found.hospitals)
    )
    largest = dict(zip(("group", "images"), found.largest, strict=True))
    return found._asdict() | {"largest": largest, "across": across, "hospitals": hospitals}


def lines(found: GroupFindings | None, more: str) -> list[str]:
    """Format the findings for people, a few examples each; `more` names the file with the rest."""
    if found is None:
        return []
    column = printable(found.column)
    name, size = found.largest
    across = [f"{_of(one, column)} = test: {one.test[0]}" for one in found.across]
    shared = [f"{_of(one, column)} = {one.train[-1]}" for one in found.hospitals]
    return [
        "",
        f"{found.groups:>5,}  groups of images ({found.known:,} of {found.images:,} images have a "
        f"{column}; the others are alone)",
        f"{found.together:>9,}  images in groups of two or more; the largest, "
        f"{printable(repr(name))}, has {size:,}",
        "",
        f"{len(found.train_in_test):>5,}  images in Train whose {column} is also in Test",
        *_examples(across, more),
        *(["", f"{len(shared):>5,}  groups in more than one hospital"] if shared else []),
        *_examples(shared, more),
    ]


def _of(one: SharedGroup, column: str) -> str:
    return f"{column} {one.group}: {one.train[0]}"


def _examples(texts: list[str], more: str) -> list[str]:
    found = [f"           {printable(text, 200)}" for text in texts[:_EXAMPLES]]
    if len(texts) > _EXAMPLES:
        found.append(f"           ... and {len(texts) - _EXAMPLES:,} more, see {more}")
    return found
