"""Lists a folder of images by file names alone, ``<split>/<class>/<file>``; opens no image.

The folder is either the usual ``train/`` and ``test/`` (in any letter case; ``test/`` may be
absent) or the output of ``fedjax-med partition``: ``client_0/``, ``client_1/``, ... and ``test/``.
"""

import itertools
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fedjax_med.errors import UserError, some

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})

_CLIENT = re.compile("client_(0|[1-9][0-9]*)")


class File(NamedTuple):
    """An image file of the source folder."""

    path: Path
    split: str  # "train" or "test"
    client: int  # the number of its client folder, or -1
    label: int
    name: str  # "<class>/<file>"


class Source(NamedTuple):
    """The content of a source folder, from file names alone; no image is opened."""

    root: Path
    class_names: tuple[str, ...]
    files: tuple[File, ...]  # sorted by (split, client, name)
    # Ignored files and their counts: by suffix, or "folder", in class folders (not images by their
    # names); by "name/" for the images in a folder beside train and test.
    ignored: tuple[tuple[str, int], ...]


def scan(data_dir: str) -> Source:
    """List the images of a source folder and check its layout.

    Args:
        data_dir: the folder, or a folder that contains exactly one such folder.

    Raises:
        UserError: `data_dir` is missing or empty, has no train folder, no class folder, a class
            without train images, or a test class that is not in train.
    """
    if not data_dir:
        raise UserError("the data set needs a folder of images: give --data_dir=FOLDER.")
    root = _unpacked(Path(data_dir).expanduser().absolute())
    train, test = _split_folders(root)
    classes: dict[str, list[tuple[str, int, Path]]] = {}
    for client, folder in train:
        for class_folder in _folders(folder):
            found = classes.setdefault(_text(class_folder.name), [])
            found += [("train", client, path) for path in _image_files(class_folder)]
    _check_train(root, train[0][1], {name: len(found) for name, found in classes.items()})
    for class_folder in _folders(test) if test else []:
        name = _text(class_folder.name)
        if name not in classes:
            raise UserError(
                f"the test class {name!r} is not among the train classes "
                f"({some(sorted(classes))}): rename or remove {_text(str(class_folder))}."
            )
        classes[name] += [("test", -1, path) for path in _image_files(class_folder)]
    class_names = tuple(sorted(classes))
    files = [
        File(path, split, client, label, f"{name}/{_text(path.name)}")
        for label, name in enumerate(class_names)
        for split, client, path in classes[name]
    ]
    split_folders = [folder for _, folder in train] + ([test] if test else [])
    known = set(split_folders)
    others = [folder for folder in _folders(root) if folder not in known]
    return Source(
        root,
        class_names,
        tuple(sorted(files, key=lambda f: (f.split, f.client, f.name))),
        _ignored(split_folders) + _elsewhere(others),
    )


def _ignored(split_folders: list[Path]) -> tuple[tuple[str, int], ...]:
    """Count the entries of class folders that are not images by name; skip hidden files."""
    found: Counter[str] = Counter()
    for class_folder in itertools.chain.from_iterable(map(_folders, split_folders)):
        images = set(_image_files(class_folder))
        found.update(
            "folder" if path.is_dir() else path.suffix.lower() or "no suffix"
            for path in class_folder.iterdir()
            if path not in images and not path.name.startswith(".")
        )
    return tuple(sorted(found.items()))


def _elsewhere(folders: list[Path]) -> tuple[tuple[str, int], ...]:
    """Count images in folders beside train and test; skip links, which may lead anywhere."""
    counts = {
        f"{_text(folder.name)}/": sum(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))
        for folder in folders
        if not folder.is_symlink()
    }
    return tuple((name, count) for name, count in counts.items() if count)


def _check_train(root: Path, folder: Path, sizes: dict[str, int]) -> None:
    if not sizes:
        raise UserError(
            f"{folder} has no class folders: expected <class>/<image> in it, "
            "one folder for each class."
        )
    for name, size in sorted(sizes.items()):
        if not size:
            raise UserError(
                f"class {name!r} has no train images in {root}: "
                f"add some ({', '.join(sorted(SUFFIXES))}) or remove its folder."
            )


def _unpacked(root: Path) -> Path:
    """Return `root`, or the only folder in it with a train folder (as Kaggle packs its sets)."""
    if not root.is_dir():
        raise UserError(f"--data_dir={root}: there is no such folder.")
    folders = _folders(root)
    if any(_is_train(folder) for folder in folders):
        return root
    inner = [folder for folder in folders if any(map(_is_train, _folders(folder)))]
    return inner[0] if len(inner) == 1 else root


def _is_train(folder: Path) -> bool:
    return folder.name.lower() == "train" or bool(_CLIENT.fullmatch(folder.name))


def _split_folders(root: Path) -> tuple[list[tuple[int, Path]], Path | None]:
    """Find the train folders with their client numbers (-1: no clients), and the test folder."""
    folders = _folders(root)
    clients = sorted(
        (int(folder.name.removeprefix("client_")), folder)
        for folder in folders
        if _CLIENT.fullmatch(folder.name)
    )
    train = [(-1, folder) for folder in folders if folder.name.lower() == "train"]
    test = [folder for folder in folders if folder.name.lower() == "test"]
    if not train and not clients:
        content = ", ".join(_text(folder.name) for folder in folders[:10]) or "no folder"
        inside = root.name.lower() in ("train", "test") or _CLIENT.fullmatch(root.name)
        hint = f" Did you mean --data_dir={root.parent}?" if inside else ""
        raise UserError(
            f"{root} has no train folder: expected train/<class>/<image> or "
            f"client_0/<class>/<image>, found {content}.{hint}"
        )
    missing = sorted(set(range(len(clients))) - {number for number, _ in clients})
    if missing:
        raise UserError(
            f"{root} has {len(clients)} client folders, but no client_{missing[0]}: expected "
            f"client_0 to client_{len(clients) - 1}."
        )
    for rivals in (train + clients[:1], [(-1, folder) for folder in test]):
        if len(rivals) > 1:
            names = " and ".join(folder.name for _, folder in rivals[:2])
            raise UserError(f"{root} has both {names}: keep one of them.")
    return train or clients, test[0] if test else None


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from error


def _image_files(folder: Path) -> list[Path]:
    try:
        return [
            path
            for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES
            and not path.name.startswith(".")
            and not path.is_dir()
        ]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from error


def _text(name: str) -> str:
    # File names are bytes; names that are not UTF-8 must still be stored and printed.
    return os.fsencode(name).decode("utf-8", "backslashreplace")
