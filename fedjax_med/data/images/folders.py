"""Lists a folder of images by file names alone, ``<split>/<class>/<file>``; opens no image.

The folder is either the usual ``train/`` and ``test/`` (in any letter case; ``test/`` may be
absent), or that of several hospitals: ``client_0/``, ``client_1/``, ... as ``fedjax-med partition``
writes it, or folders of any other names, and ``test/``.
"""

import itertools
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fedjax_med.data.images import class_names, listing
from fedjax_med.data.images.listing import folders_in, images_in
from fedjax_med.data.spelling import folded, of_file, shown, spellings
from fedjax_med.errors import UserError, expand, some

_TABLES = (".csv", ".tsv", ".xls", ".xlsx")  # also those to be saved as CSV first
_BY_TABLE = "--config.dataset.name=table --config.dataset.options.path=TABLE.csv"
_CLIENT = re.compile("client_(0|[1-9][0-9]*)")
# Parts of a data set under other names than ours, without spaces: no hospital is called so.
_PARTS = frozenset(
    f"{part}{end}"
    for part in ("train", "training", "test", "testing", "val", "valid", "validation", "dev")
    for end in ("", "s", "set", "data", "images")
) | {"eval", "evaluation", "holdout"}


class File(NamedTuple):
    """An image file of the source folder."""

    path: Path
    split: str  # "train" or "test"
    client: int  # the number of its client folder, or -1
    label: int
    name: str  # "<class folder>/<file>"


class _Layout(NamedTuple):
    """The folders of a source folder that hold class folders."""

    train: list[tuple[int, Path]]  # with their client numbers, or -1
    test: Path | None
    clients: tuple[str, ...] = ()


class Source(NamedTuple):
    """The content of a source folder, from file names alone; no image is opened."""

    root: Path
    class_names: tuple[str, ...]
    files: tuple[File, ...]  # sorted by (split, client, name)
    # Ignored files and their counts: by suffix, or "folder", in class folders (not images by their
    # names); images at another depth; by "name/" the images in a folder beside train and test.
    ignored: tuple[tuple[str, int], ...]
    clients: tuple[str, ...]  # the names of the hospitals' folders, in order; () without any
    table: str = ""  # the path of the table that lists the images, if one does


def scan(data_dir: str, rename: str = "", nested: bool = False) -> Source:
    """List the images of a source folder and check its layout.

    Args:
        data_dir: the folder, or a folder that contains exactly one such folder.
        rename: classes of folders that have another name (`class_names.settle`).
        nested: whether images in folders below a class folder belong to it; else they are counted.

    Raises:
        UserError: `data_dir` is missing or empty, has no train folder, no class folder, a class
            without train images, two spellings of one class, or a test class that is not in train.
    """
    if not data_dir:
        raise UserError("the data set needs a folder of images: give --data_dir=FOLDER.")
    root = _unpacked(expand(data_dir).absolute())
    train, test, clients = _layout(root)
    placed = [("train", client, of) for client, folder in train for of in folders_in(folder)]
    tests = folders_in(test) if test else []
    classes = class_names.settle(root, [*(of for *_, of in placed), *tests], rename)
    images = [(*where, path) for where in placed for path in listing.images_of(where[-1], nested)]
    sizes = {classes[of_file(of.name)]: 0 for *_, of in placed}
    for *_, of, _ in images:
        sizes[classes[of_file(of.name)]] += 1
    _check_train(root, train[0][1], sizes)
    for of in tests:
        _check_test(of, classes[of_file(of.name)], sizes)
        images += [("test", -1, of, path) for path in listing.images_of(of, nested)]
    labels = {name: label for label, name in enumerate(sorted(sizes))}
    files = [
        File(path, split, client, labels[classes[of_file(of.name)]], name)
        for (split, client, of, path), name in zip(images, listing.names(images), strict=True)
    ]
    split_folders = [folder for _, folder in train] + ([test] if test else [])
    known = set(split_folders)
    others = [folder for folder in folders_in(root) if folder not in known]
    return Source(
        root,
        tuple(labels),
        tuple(sorted(files, key=lambda f: (f.split, f.client, f.name))),
        _ignored(root, split_folders, nested) + _elsewhere(others),
        clients,
    )


def _ignored(root: Path, split_folders: list[Path], nested: bool) -> tuple[tuple[str, int], ...]:
    """Count what is not used: in class folders and beside them; skip hidden files."""
    found: Counter[str] = Counter()
    beside = [path for folder in {root, *split_folders} for path in images_in(folder)]
    found.update({"images beside the class folders": len(beside)} if beside else {})
    for class_folder in itertools.chain.from_iterable(map(folders_in, split_folders)):
        found.update(listing.others(class_folder, nested))
    return tuple(sorted(found.items()))


def _elsewhere(beside: list[Path]) -> tuple[tuple[str, int], ...]:
    """Count the images in folders beside train and test."""
    counts = {f"{of_file(folder.name)}/": listing.count_below(folder) for folder in beside}
    return tuple((name, count) for name, count in counts.items() if count)


def _check_train(root: Path, folder: Path, sizes: dict[str, int]) -> None:
    if not sizes:
        raise UserError(
            f"{folder} has no class folders: expected <class>/<image> in it, "
            "one folder for each class."
        )
    for name, size in sorted(sizes.items()):
        if not size:
            deeper = bool(listing.count_below(folder / name))
            hint = " (for images in folders below it: --config.dataset.options.nested=True)"
            raise UserError(
                f"class {name!r} has no train images in {root}{hint * deeper}: "
                f"add some ({', '.join(sorted(listing.SUFFIXES))}) or remove its folder."
            )


def _check_test(folder: Path, name: str, sizes: dict[str, int]) -> None:
    if name not in sizes:
        raise UserError(
            f"the test class {name!r} is not among the train classes ({some(sorted(sizes))}): "
            f"rename or remove {of_file(str(folder))}."
        )


def _unpacked(root: Path) -> Path:
    """Return `root`, or the only folder in it that holds a set (as Kaggle packs its sets)."""
    if not root.is_dir():
        raise UserError(f"--data_dir={root}: there is no such folder.")
    folders = folders_in(root)
    if any(_is_train(folder) for folder in folders):
        return root
    inner = _packed(folders)
    return inner[0] if len(inner) == 1 and _is_set(inner[0]) else root


def _packed(folders: list[Path]) -> list[Path]:
    """Return those of `folders` that hold train folders, else those that hold hospitals' folders.

    If the `folders` themselves hold class folders, they are hospitals', and hold no others.
    """
    packed = [folder for folder in folders if any(map(_is_train, folders_in(folder)))]
    if packed or any(map(_classes, folders)):
        return packed
    inner = [folder for folder in folders if any(map(_classes, folders_in(folder)))]
    return [] if any(map(_is_part, folders)) else inner


def _is_set(folder: Path) -> bool:
    """Tell whether `folder` holds a train folder or several hospitals'.

    A single folder of folders may also be a class, and these its patients.
    """
    inner = folders_in(folder)
    hospitals = [one for one in inner if _classes(one) and one.name.lower() != "test"]
    return any(map(_is_train, inner)) or len(hospitals) > 1


def _is_train(folder: Path) -> bool:
    return folder.name.lower() == "train" or bool(_CLIENT.fullmatch(folder.name))


def _layout(root: Path) -> _Layout:
    """Find the train folders with their client numbers, and the test folder."""
    folders = folders_in(root)
    numbered = sorted(
        (folder for folder in folders if _CLIENT.fullmatch(folder.name)),
        key=lambda folder: int(folder.name.removeprefix("client_")),
    )
    train = [folder for folder in folders if folder.name.lower() == "train"]
    test = [folder for folder in folders if folder.name.lower() == "test"]
    for rivals in (train + numbered[:1] if train else [], test):
        if len(rivals) > 1:
            both = " and ".join(folder.name for folder in rivals[:2])
            raise UserError(f"{root} has both {both}: keep one of them.")
    one_test = test[0] if test else None
    if train:
        return _Layout([(-1, train[0])], one_test)
    others = [folder for folder in folders if folder not in test]
    if clients := numbered or _hospitals(root, others):
        _check_beside(root, numbered, others)
        names = tuple(of_file(folder.name) for folder in clients)
        for alike in spellings(names):
            raise UserError(
                f"{root}: the hospitals' folders {' and '.join(shown(alike))} differ only in their "
                "spelling: put the images of one hospital in one folder, or rename one."
            )
        return _Layout(list(enumerate(clients)), one_test, names)
    content = ", ".join(of_file(folder.name) for folder in folders[:10]) or "no folder"
    inside = root.name.lower() in ("train", "test") or _CLIENT.fullmatch(root.name)
    meant = [root.parent] if inside else _packed(folders)[:3]
    hint = f" Did you mean {' or '.join(f'--data_dir={one}' for one in meant)}?" if meant else ""
    if any(one.suffix.lower() in _TABLES for one in root.iterdir()):
        hint += f" Images that a table labels: {_BY_TABLE}."
    raise UserError(
        f"{root} has no train folder: expected train/<class>/<image> or "
        f"<hospital>/<class>/<image>, found {content}.{hint}"
    )


def _check_beside(root: Path, numbered: list[Path], others: list[Path]) -> None:
    """Refuse folders beside ``client_0/``, ... that look like one more hospital's.

    Raises:
        UserError: Such a folder has a class of theirs.
    """
    known = set[str]().union(*map(_classes, numbered))
    for folder in others if numbered else []:
        if folder not in numbered and known & _classes(folder):
            raise UserError(
                f"{root} has {numbered[0].name!r} and {of_file(folder.name)!r}, which is also "
                "a folder of classes: call all hospitals client_0, client_1, ... (or none of them "
                "so), or move that folder away."
            )


def _classes(folder: Path) -> set[str]:
    return {folded(of.name) for of in folders_in(folder) if images_in(of)}


def _is_part(folder: Path) -> bool:
    return folded(folder.name).replace(" ", "") in _PARTS


def _hospitals(root: Path, folders: list[Path]) -> list[Path]:
    """Return the `folders` if they are those of hospitals, [] if they are something else.

    Raises:
        UserError: Some of them look like hospitals' folders.
    """
    classes = list(map(_classes, folders))
    if any(map(_is_part, folders)) or not any(classes) or any(map(images_in, folders)):
        return []
    for folder, held in zip(folders, classes, strict=True):
        if not held:
            raise UserError(
                f"{root} has folders of hospitals, <hospital>/<class>/<image>, but {folder.name!r} "
                "holds no such images: add some, or move that folder away."
            )
    if len(folders) > 1 and len(set.union(*classes)) == sum(map(len, classes)):
        raise UserError(
            f"{root} has no train folder, and its folders ({some(one.name for one in folders)}) "
            "have no class in common: if they are hospitals, call them client_0, client_1, ...; if "
            "they are classes, put their images into train/<class>/<image>."
        )
    return folders
