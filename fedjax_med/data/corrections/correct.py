"""Corrects the labels of a data set by a table: those of Train and Test, before all else."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data.corrections.table import FLAG, Corrections, Row, kind
from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.data.spelling import folded, plain
from fedjax_med.errors import UserError, check_name, printable, some

_Key = tuple[str, ...]  # the last parts of an image's path: hospital or split, class folder, file


class Change(NamedTuple):
    """An image whose label a table changes."""

    split: str  # "train" or "test"
    client: int  # the number of its client folder, or -1
    name: str  # "<class folder>/<file>"
    before: str
    after: str
    basis: str

    @property
    def filed(self) -> str:
        """Return the image's name in the folder of its right class."""
        return f"{self.after}/{PurePosixPath(self.name).name}"


class Changes(NamedTuple):
    """What a table changes in a data set."""

    table: str  # its name or path
    sha256: str  # of the table
    applied: bool  # False: labels that are known to be wrong, and stay so
    changed: tuple[Change, ...]
    without_image: int  # rows that name no image of the data set
    emptied: tuple[str, ...]  # classes that lose all their images, and are left out

    @property
    def counts(self) -> list[tuple[tuple[str, str, str], int]]:
        """Count the images by former class, new class and kind of basis, most frequent first."""
        kinds = Counter((one.before, one.after, kind(one.basis)) for one in self.changed)
        return kinds.most_common()


class _Image(NamedTuple):
    """An image of Train or Test."""

    split: str
    client: int
    place: str  # the folder of its hospital, or its split
    name: str
    sha256: str
    label: int

    @property
    def path(self) -> str:
        return f"{self.place}/{self.name}"


def correct(dataset: Dataset, table: Corrections) -> tuple[Dataset, Changes]:
    """Give the images that `table` names, and their copies, their right labels.

    A class that loses all its images is left out. The images are sorted as if each lay in the
    folder of its right class.

    Args:
        dataset: as published.
        table: its rows name images by ``<file>`` or ``<class>/<file>``, with or without the suffix,
            and with the folder above where two different images are called so.

    Raises:
        UserError: A label is no class of the data set; a row names several different images; an
            image gets two labels; no row names an image.
    """
    images = [*_images(dataset, "train"), *_images(dataset, "test")]
    rows = _by_key(table, dataset.class_names, images)
    found = _found(rows, images)
    right = _by_content(table, images, found)
    number = {folded(name): label for label, name in enumerate(dataset.class_names)}
    label = np.array([image.label for image in images], np.int32)
    changed = []
    for position, image in enumerate(images):
        row = right.get(image.sha256)
        if row is not None and (after := number[folded(row.label)]) != image.label:
            label[position] = after
            names = dataset.class_names[image.label], dataset.class_names[after]
            changed.append(Change(image.split, image.client, image.name, *names, row.basis))
    emptied = {one.before for one in changed} - {dataset.class_names[k] for k in np.unique(label)}
    changes = Changes(
        table.name,
        table.sha256,
        applied=True,
        changed=tuple(changed),
        without_image=len(rows) - len(found),
        emptied=tuple(sorted(emptied)),
    )
    return _relabelled(dataset, label, changes), changes


def _images(dataset: Dataset, which: str) -> list[_Image]:
    split: Split = getattr(dataset, which)
    clients = dataset.clients or [f"client_{c}" for c in range(1 + split.client.max(initial=-1))]
    return [
        _Image(which, client, clients[client] if client >= 0 else which, name, sha256, label)
        for client, name, sha256, label in zip(
            split.client.tolist(),
            split.name.tolist(),
            split.sha256.tolist(),
            split.label.tolist(),
            strict=True,
        )
    ]


def _by_key(
    table: Corrections, class_names: Sequence[str], images: Iterable[_Image]
) -> dict[_Key, Row]:
    """Index the rows by the parts of a path that they give; refuse labels that are no class."""
    pairs = {(image.place, image.name.rpartition("/")[0]) for image in images}
    places, folders = ({plain(pair[of]) for pair in pairs} for of in (0, 1))
    classes = set(map(folded, class_names))
    rows: dict[_Key, Row] = {}
    for row in table.rows:
        if folded(row.label) not in classes:
            where = f"the classes of the images ({table.name}, line {row.line})"
            check_name(row.label, class_names, where)
        *above, file = map(plain, row.image.replace("\\", "/").split("/"))
        key: _Key = (file,)
        for folder, known in zip(reversed(above), (folders, places), strict=False):
            if folder not in known:
                break
            key = (folder, *key)
        _check_agree(table, rows.setdefault(key, row), row)
    return rows


def _check_agree(table: Corrections, one: Row, other: Row) -> None:
    """Refuse two rows about one image that give it two labels."""
    if folded(one.label) != folded(other.label):
        one, other = sorted((one, other))  # by their lines
        first, second = (printable(repr(row.image)) for row in (one, other))
        raise UserError(
            f"{table.name}: line {one.line} says that {first} is {one.label!r}, line {other.line} "
            f"that {second}, the same image, is {other.label!r}: leave one of them."
        )


def _found(rows: dict[_Key, Row], images: Iterable[_Image]) -> list[tuple[Row, list[_Image]]]:
    """List each row that names an image, with all the images that it names."""
    found: dict[_Key, list[_Image]] = {}
    for image in images:
        place, folder, file = map(plain, (image.place, *image.name.rpartition("/")[::2]))
        for form in dict.fromkeys((file, PurePosixPath(file).stem)):
            for key in ((form,), (folder, form), (place, folder, form)):
                if key in rows:
                    found.setdefault(key, []).append(image)
    return [(rows[key], named) for key, named in found.items()]


def _by_content(
    table: Corrections, images: Sequence[_Image], found: Iterable[tuple[Row, list[_Image]]]
) -> dict[str, Row]:
    """Index the rows by the content of their image: copies have its label, whatever their name.

    Raises:
        UserError: A row names several different images, an image gets two labels, or no row names
            an image.
    """
    right: dict[str, Row] = {}
    for row, (first, *more) in found:
        for other in more:
            if other.sha256 != first.sha256:
                raise UserError(
                    f"{table.name}, line {row.line}: {printable(repr(row.image))} may be "
                    f"{first.path} or {other.path}, which are different images: write "
                    "'<class>/<file>', if need be with the folder above."
                )
        _check_agree(table, right.setdefault(first.sha256, row), row)
    if not right:
        raise UserError(
            f"{table.name} names no image of the data set: it lists "
            f"{some(row.image for row in table.rows[:3])}; the data set has "
            f"{some(image.path for image in images[:3])}: set {FLAG} to its own table."
        )
    return right


def _relabelled(dataset: Dataset, label: npt.NDArray[np.int32], changes: Changes) -> Dataset:
    """Return the data set with the labels ``[N + M]``, without the emptied classes, and sorted."""
    kept = [k for k, name in enumerate(dataset.class_names) if name not in changes.emptied]
    number = np.zeros(len(dataset.class_names), np.int32)
    number[kept] = np.arange(len(kept), dtype=np.int32)
    size = dataset.train.num_examples
    return dataset._replace(
        class_names=tuple(dataset.class_names[k] for k in kept),
        train=_sorted(dataset.train._replace(label=number[label[:size]]), "train", changes),
        test=_sorted(dataset.test._replace(label=number[label[size:]]), "test", changes),
    )


def _sorted(split: Split, which: str, changes: Changes) -> Split:
    """Sort as if each image lay in the folder of its right class."""
    filed = {(one.client, one.name): one.filed for one in changes.changed if one.split == which}
    if not filed:
        return split
    places = [
        (client, filed.get((client, name), name), name)
        for client, name in zip(split.client.tolist(), split.name.tolist(), strict=True)
    ]
    return split.take(np.array(sorted(range(len(places)), key=places.__getitem__)))
