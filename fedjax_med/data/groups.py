"""Groups of images that belong together, such as those of a lesion or a patient, by a table."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data import csv_table
from fedjax_med.data.audit.duplicates import Int32, joined
from fedjax_med.data.dataset import Dataset, GroupTable, Split
from fedjax_med.data.spelling import plain
from fedjax_med.errors import UserError, printable, some

Labels = npt.NDArray[np.str_]  # [N], the names of the images' groups; "": alone

_OPTIONS = "--config.groups"

Key = tuple[str, str, str]  # folder (train, test or a hospital's) and class, or "", and file


class Entry(NamedTuple):
    """One line of a table of groups."""

    line: int
    image: str  # as it is written
    group: str


class Table:
    """The lines of a table of groups, by the images that they name."""

    def __init__(self, path: str, column: str, image: str) -> None:
        """Read the table at `path`.

        Args:
            path: of a CSV, as `--config.partition.name=by_column` reads it.
            column: the heading of the groups; empty cells, NA and the like are groups of one.
            image: the heading of the images: "<file>", with or without the suffix, its class and
                the folder of it; the letter case does not matter where it does not decide.

        Raises:
            UserError: It cannot be read, or lacks a column.
        """
        advice = f"Give a CSV of images and their {column} by {_OPTIONS}.path."
        wanted = [(image, f"{_OPTIONS}.image"), (column, f"{_OPTIONS}.column")]
        data = csv_table.content(path, advice)
        rows = csv_table.columns(data, path, wanted, advice)
        self.entries = [Entry(row.line, *row.cells) for row in rows]
        self.source = GroupTable(path, column, hashlib.sha256(data).hexdigest())

    def label(self, dataset: Dataset) -> Dataset:
        """Give the images of `dataset` their groups.

        Raises:
            UserError: An image is listed with two groups, or no image has one.
        """
        names = [*dataset.train.name, *dataset.test.name]
        if not names:
            return dataset
        classes = {str(name).partition("/")[0] for name in names}
        lines = _Lines(self.entries, classes, {"train", "test", *dataset.clients})
        parts, listed = [], 0
        for split, folder in ((dataset.train, "train"), (dataset.test, "test")):
            found = [lines.of(*one) for one in _places(split, folder, dataset.clients)]
            listed += sum(entries is not None for entries in found)
            path, column = self.source.path, self.source.column
            parts.append(np.array([agreed(of or (), path, column) for of in found], np.str_))
        if not listed or not any((part != "").any() for part in parts):
            raise self._useless(names, listed)
        return _with_groups(dataset, parts, self.source)

    def _useless(self, names: list[str], listed: int) -> UserError:
        path, column = self.source.path, printable(self.source.column)
        if listed:
            return UserError(
                f"{path} names {listed:,} of the {len(names):,} images, but gives none of them a "
                f"{column}: set {_OPTIONS}.column to another column, or leave out {_OPTIONS}.path."
            )
        lists = some([repr(entry.image) for entry in self.entries[:3]]) or "nothing"
        return UserError(
            f"{path} names none of the {len(names):,} images: they are called like "
            f"{printable(repr(str(names[0])))}, and it lists {lists}: set {_OPTIONS}.image to the "
            "column of their names."
        )


def agreed(entries: Iterable[Entry], path: str, column: str) -> str:
    """Return the group that all `entries` of an image name, "" if none does.

    Raises:
        UserError: They name two; the message has the `path` and the `column` of the table.
    """
    named = {
        entry.group: entry for entry in entries if entry.group.casefold() not in csv_table.MISSING
    }
    if len(named) > 1:
        one, other = list(named.values())[:2]
        raise UserError(
            f"{path}: expected one {printable(column)} for each image, got two of "
            f"{printable(repr(one.image))}: {printable(repr(one.group))} in line {one.line} and "
            f"{printable(repr(other.group))} in line {other.line}."
        )
    return next(iter(named), "")


def attached(
    dataset: Dataset, known: Mapping[tuple[str, int, str], str], source: GroupTable
) -> Dataset:
    """Give the images of `dataset` the groups that are `known` by split, client and name."""
    parts = [
        np.array(
            [
                known[(of, *one)]
                for one in zip(split.client.tolist(), split.name.tolist(), strict=True)
            ]
        )
        for of, split in (("train", dataset.train), ("test", dataset.test))
    ]
    return _with_groups(dataset, parts, source)


def _with_groups(dataset: Dataset, parts: Iterable[Labels], source: GroupTable) -> Dataset:
    train, test = (
        split._replace(group=part.astype(np.str_))
        for split, part in zip((dataset.train, dataset.test), parts, strict=True)
    )
    return dataset._replace(train=train, test=test, groups=source)


class _Lines:
    """An index of the lines of a table by what they say of an image's place."""

    def __init__(
        self, entries: list[Entry], classes: Iterable[str], folders: Iterable[str]
    ) -> None:
        self._classes, self._folders = (
            set(map(plain, classes)),
            set(map(plain, folders)),
        )
        self._exact: dict[Key, list[Entry]] = {}
        self._loose: dict[Key, list[Entry]] = {}
        for entry in filter(lambda entry: entry.image, entries):
            key = self._key(entry.image)
            self._exact.setdefault(key, []).append(entry)
            self._loose.setdefault(_plain(key), []).append(entry)

    def _key(self, image: str) -> Key:
        """Split a cell into what is known of its folders and the file."""
        *above, file = (part.strip() for part in image.replace("\\", "/").split("/"))
        label = above.pop() if above and plain(above[-1]) in self._classes else ""
        folder = plain(above[-1]) if above else ""
        return folder if folder in self._folders else "", label, file

    def of(self, folder: str, name: str) -> list[Entry] | None:
        """Return the lines of the image `name` in `folder`, those that say most of its place."""
        label, _, file = name.rpartition("/")
        files = list(dict.fromkeys((file, str(PurePosixPath(file).with_suffix("")))))
        for place in ((folder, label), ("", label), (folder, ""), ("", "")):
            keys: list[Key] = [(*place, one) for one in files]
            for index, form in ((self._exact, tuple[str, str, str]), (self._loose, _plain)):
                found = [entry for key in keys for entry in index.get(form(key), ())]
                if found:
                    return found
        return None


def _plain(key: Iterable[str]) -> Key:
    folder, label, file = map(plain, key)
    return folder, label, file


def _places(split: Split, folder: str, clients: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield each image's folder, in lower case, and its name."""
    folders = list(map(plain, clients))
    for client, name in zip(split.client.tolist(), split.name.tolist(), strict=True):
        yield folders[client] if 0 <= client < len(folders) else folder, name


def numbered(labels: Labels) -> Int32:
    """Number the groups; an image that is alone has a number of its own."""
    _, numbers = np.unique(labels, return_inverse=True)
    alone = labels == ""
    numbers[alone] = len(labels) + np.arange(alone.sum())
    return numbers.astype(np.int32)


def with_copies(labels: Labels, near: Int32, sha256: npt.NDArray[np.str_]) -> Labels:
    """Unite the groups that the same image belongs to, and name those of the same image alone.

    Args:
        labels: the groups by the table, ``[N]``.
        near: ``[N]``, the same image has the same number.
        sha256: of the images' files, ``[N]``.
    """
    together = joined(numbered(labels), near)
    names: dict[int, str] = {}
    for number, label in zip(together.tolist(), labels.tolist(), strict=True):
        names[number] = min(filter(None, (names.get(number), label)), default="")
    sizes, first = np.bincount(together), np.unique(together, return_index=True)[1]
    for number in np.flatnonzero(sizes > 1).tolist():
        names[number] = names[number] or f"image {sha256[first[number]][:12]}"
    return np.array([names[number] for number in together.tolist()], np.str_)


def unite(dataset: Dataset, train_near: Int32, test_near: Int32) -> Dataset:
    """Unite the groups of `dataset` that share an image, also across Train and Test.

    Args:
        dataset: as `Table.label` returned it; without groups it is not changed.
        train_near: of `fedjax_med.data.audit.findings.Audit`.
        test_near: likewise.
    """
    train, test = dataset.train, dataset.test
    if train.group is None or test.group is None:
        return dataset
    both = with_copies(
        np.concatenate([train.group, test.group]),
        np.concatenate([train_near, test_near]),
        np.concatenate([train.sha256, test.sha256]),
    )
    size = train.num_examples
    return dataset._replace(
        train=train._replace(group=both[:size]), test=test._replace(group=both[size:])
    )


def drop_in_test(dataset: Dataset) -> tuple[Dataset, str]:
    """Remove from Train the images whose group is also in Test; return a sentence about it, too.

    Raises:
        UserError: A class has no training image left.
    """
    train, test = dataset.train, dataset.test
    if train.group is None or test.group is None:
        return dataset, ""
    left = also_in(train.group, test.group)
    column = printable(dataset.groups.column) if dataset.groups else "group"
    for label, name in enumerate(dataset.class_names):
        if (train.label == label).any() and not (train.label[~left] == label).any():
            raise UserError(
                f"--config.groups.in_test=drop leaves no train image in class {name!r}: every one "
                f"is of a {column} that is in Test. Give --config.groups.in_test=report."
            )
    sentence = f" Left Train for a {column} that is also in Test: {left.sum():,} images."
    return dataset._replace(train=train.take(~left)) if left.any() else dataset, sentence


def also_in(of: Labels, others: Labels) -> npt.NDArray[np.bool_]:
    """Tell which images, by their groups, are of a group that is also in `others`: ``[N]``."""
    return np.asarray((of != "") & np.isin(of, others))


def numbers(split: Split, duplicates: Int32) -> Int32:
    """Number the images so that those of a group and the same image share a number.

    Args:
        split: ``N`` images.
        duplicates: ``[N]``, returned if the split has no groups.
    """
    return duplicates if split.group is None else joined(duplicates, numbered(split.group))
