"""From the lines of a table and the files below a folder to the images of a data set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedjax_med.data import groups, splits
from fedjax_med.data.datasets._table_columns import FLAG, Headings
from fedjax_med.data.datasets._table_files import Files
from fedjax_med.data.datasets._table_rows import Row, Rows, read
from fedjax_med.data.images.folders import File, Source
from fedjax_med.data.partitions import TEST, generator
from fedjax_med.data.spelling import of_file
from fedjax_med.errors import UserError, check_name, printable, some

MISSING = ("refuse", "skip")  # what becomes of images that a table lists and nobody finds
_FIRST = 3  # missing images that are named

Place = tuple[str, int, str]  # split, client and name


class Listed(NamedTuple):
    """The images of a table."""

    source: Source
    groups: dict[Place, str]  # empty: the images have no groups
    rows: Rows


class Share(NamedTuple):
    """How a test set is split off."""

    fraction: float  # 0: there is none
    seed: int


class _Image(NamedTuple):
    path: Path
    row: Row
    group: str


def check(missing: str, test: Share) -> None:
    """Refuse values that are out of range.

    Raises:
        UserError: The message names the option.
    """
    check_name(missing, MISSING, f"the values of {FLAG}.missing")
    if not 0 <= test.fraction < 1:
        raise UserError(f"expected {FLAG}.test_fraction in [0, 1), got {test.fraction}.")
    if test.seed < 0:
        raise UserError(f"expected {FLAG}.split_seed of at least 0, got {test.seed}.")


def scan(
    data_dir: str,
    table: str,
    wanted: Headings,
    folders: str,
    names: str,
    missing: str,
    test: Share,
) -> Listed:
    """List the images of a table; opens no image, except files of one name to compare them.

    Args:
        data_dir: the folder of the images.
        table: the path of a CSV.
        wanted: the headings of its columns that are given.
        folders: ``A+B``, the folders in `data_dir` that hold the images; "": all of it.
        names: ``OLD:NEW,OLD:NEW``: labels, and the classes that they stand for.
        missing: ``refuse`` or ``skip``.
        test: how a test set is split off if the table has none.

    Raises:
        UserError: The table or the folder is not usable, or they do not fit each other.
    """
    check(missing, test)
    files = Files(data_dir, folders)
    rows = read(table, wanted, names)
    images, absent = _found(table, files, rows)
    if absent and (missing == "refuse" or not images):
        raise _missing(table, files, rows, absent)
    images.sort(key=lambda one: (one.row.label, of_file(one.path.name), str(one.path)))
    images = _with_test(table, images, test)
    classes, clients = _classes(table, images), _clients(table, images, test)
    ordered = _named(files, images, classes, clients)
    unlisted = len(files.every) - len({one.path for one in images})
    ignored = {
        "images that the table does not list": unlisted,
        "rows of images that are missing": len(absent),
        "rows without a label": rows.unlabelled,
    }
    source = Source(
        files.root,
        classes,
        tuple(file for file, _ in ordered),
        tuple((kind, count) for kind, count in ignored.items() if count),
        clients,
        table,
    )
    grouped = {(file.split, file.client, file.name): group for file, group in ordered}
    return Listed(source, grouped if rows.column else {}, rows)


def _found(table: str, files: Files, rows: Rows) -> tuple[list[_Image], list[Row]]:
    """Find the files of the lines, and list the lines without a file.

    Raises:
        UserError: Two lines of one image differ, or a file is not where it must be.
    """
    of: dict[Path, list[Row]] = {}
    absent = []
    for row in rows.rows:
        try:
            path = files.find(row.image)
        except UserError as error:
            raise UserError(f"{table}, line {row.line}: {error}") from error
        if path is None:
            absent.append(row)
        else:
            of.setdefault(path, []).append(row)
    return [_Image(path, same[0], _agreed(table, same, rows)) for path, same in of.items()], absent


def _agreed(table: str, same: Sequence[Row], rows: Rows) -> str:
    """Check that the lines of one image say the same, and return its group."""
    first = same[0]
    for row in same[1:]:
        for what in ("label", "split", "site"):
            one, other = getattr(first, what), getattr(row, what)
            if one != other:
                raise UserError(
                    f"{table}: lines {first.line} and {row.line} are about the image "
                    f"{printable(repr(row.image))} and give it the {what} {printable(repr(one))} "
                    f"and {printable(repr(other))}: leave one of them."
                )
    entries = [groups.Entry(row.line, row.image, row.group) for row in same]
    return groups.agreed(entries, table, rows.column) if rows.column else ""


def _missing(table: str, files: Files, rows: Rows, absent: Sequence[Row]) -> UserError:
    """Build the error for images that are not there."""
    first = some(repr(row.image) for row in absent[:_FIRST])
    there = some(files.relative(path) for path in list(files.every)[:_FIRST]) or "none"
    other = [f"{count:,} {of_file(kind)}" for kind, count in files.others.most_common(_FIRST)]
    others = f"; other files: {some(other)}" if other else ""
    links = f"; links to folders are not followed: {some(files.links)}" if files.links else ""
    rest = (
        f"leave them out by {FLAG}.missing=skip"
        if len(absent) < len(rows.rows)
        else f"look at --data_dir, {FLAG}.folders and {FLAG}.image"
    )
    return UserError(
        f"{table} lists {len(absent):,} of {len(rows.rows):,} images that are not below "
        f"{files.root}, such as {first} (found are {len(files.every):,} images, such as "
        f"{there}{others}{links}): add them, or {rest}."
    )


def _with_test(table: str, images: list[_Image], test: Share) -> list[_Image]:
    """Put a share of each class, in whole groups, into Test.

    Raises:
        UserError: The table has test images of its own.
    """
    if not test.fraction:
        return images
    if any(one.row.split == "test" for one in images):
        raise UserError(
            f"{table} has test images of its own, so {FLAG}.test_fraction={test.fraction} is not "
            f"needed: leave it out, or do not use the column of splits ({FLAG}.split=none)."
        )
    label = np.unique([one.row.label for one in images], return_inverse=True)[1]
    together = groups.numbered(np.array([one.group for one in images], np.str_))
    rng, every = generator(test.seed, TEST), np.arange(len(images))
    tested = set(splits.sampled(label, together, every, test.fraction, rng).tolist())
    return [
        one._replace(row=one.row._replace(split="test" if at in tested else "train"))
        for at, one in enumerate(images)
    ]


def _classes(table: str, images: Sequence[_Image]) -> tuple[str, ...]:
    """Return the classes, sorted.

    Raises:
        UserError: A class has no training image.
    """
    trained = {one.row.label for one in images if one.row.split == "train"}
    if others := {one.row.label for one in images} - trained:
        raise UserError(
            f"{table}: the classes {some(map(repr, sorted(others)))} have test images only: give "
            f"some of their images the split train, or another name by {FLAG}.names."
        )
    return tuple(sorted(trained))


def _clients(table: str, images: Sequence[_Image], test: Share) -> tuple[str, ...]:
    """Return the sites with training images, sorted: the clients in order; () without any.

    Raises:
        UserError: A site has lost all its images to Test, which was drawn.
    """
    trained = {one.row.site for one in images if one.row.split == "train"}
    lost = {one.row.site for one in images} - trained
    if lost and test.fraction:
        raise UserError(
            f"{table}: {FLAG}.test_fraction={test.fraction} leaves no training image at the sites "
            f"{some(map(repr, sorted(lost)))}: choose a smaller one, or another {FLAG}.split_seed."
        )
    return tuple(sorted(trained - {""}))


def _owners(images: Sequence[_Image], clients: Sequence[str]) -> list[int]:
    """Return the client of each image; -1 for all of Test if some of it is of no client."""
    numbers = {name: client for client, name in enumerate(clients)}
    owners = [numbers.get(one.row.site, -1) for one in images]
    tested = [one.row.split == "test" for one in images]
    whole = all(owner >= 0 for owner, of in zip(owners, tested, strict=True) if of)
    return [-1 if of and not whole else owner for owner, of in zip(owners, tested, strict=True)]


def _named(
    files: Files, images: list[_Image], classes: tuple[str, ...], clients: tuple[str, ...]
) -> list[tuple[File, str]]:
    """Name the images, each with its group, in the order of split, client and name.

    A name is ``<class>/<file>``, with the folders of the file where it would not be one alone.

    Raises:
        UserError: Two images have one name even so.
    """
    labels = {name: label for label, name in enumerate(classes)}
    owners = _owners(images, clients)
    places = [(one.row.split, owner) for one, owner in zip(images, owners, strict=True)]
    short = [f"{one.row.label}/{of_file(one.path.name)}" for one in images]
    count = Counter(zip(places, short, strict=True))
    whole = [f"{one.row.label}/{files.relative(one.path).replace('/', '_')}" for one in images]
    names = [
        name if count[place, name] == 1 else long
        for place, name, long in zip(places, short, whole, strict=True)
    ]
    for (_, name), number in Counter(zip(places, names, strict=True)).items():
        if number > 1:
            raise UserError(f"{number} images would be called {printable(name)}: rename one.")
    ordered = sorted(zip(places, names, images, strict=True), key=lambda one: one[:2])
    return [
        (File(one.path, *place, labels[one.row.label], name), one.group)
        for place, name, one in ordered
    ]
