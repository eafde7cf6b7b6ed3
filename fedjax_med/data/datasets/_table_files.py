"""The image files below some folders, found by what a table calls them."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from fedjax_med.data.datasets._table_columns import FLAG
from fedjax_med.data.images.decode import LIMIT
from fedjax_med.data.images.listing import SUFFIXES
from fedjax_med.data.spelling import of_file, plain
from fedjax_med.errors import UserError, expand, printable, some
from fedjax_med.files import read_regular

_Index = dict[str, list[Path]]


def parts(name: str) -> tuple[str, ...]:
    """Split a path relative to a folder at its slashes.

    Raises:
        ValueError: It is absolute, or leads out of the folder.
    """
    windows, posix = PureWindowsPath(name), PurePosixPath(name.replace("\\", "/"))
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts:
        raise ValueError(f"{printable(repr(name))} leads out of the folder of the images")
    return tuple(part.strip() for part in posix.parts)


def folders(data_dir: str, given: str) -> list[Path]:
    """Return the folders ``A+B`` in `data_dir`, or `data_dir` itself.

    Raises:
        UserError: There is no such folder, or it lies elsewhere.
    """
    if not data_dir:
        raise UserError("the data set 'table' needs a folder of images: give --data_dir=FOLDER.")
    root = expand(data_dir).absolute()
    if not root.is_dir():
        raise UserError(f"--data_dir={root}: there is no such folder.")
    found = []
    for name in given.split("+") if given else [""]:
        folder = root.joinpath(*_checked(name))
        if not folder.is_dir():
            there = some(sorted(of_file(one.name) for one in root.iterdir() if one.is_dir()))
            hint = " Write + between folders." if "," in name else ""
            raise UserError(
                f"{FLAG}.folders: {root} has no folder {printable(repr(name))}; it has "
                f"{there}.{hint}"
            )
        _check_inside(root, folder)
        found.append(folder)
    return found


def _checked(name: str) -> tuple[str, ...]:
    try:
        return parts(name)
    except ValueError as error:
        raise UserError(
            f"expected {FLAG}.folders=FOLDER+FOLDER relative to --data_dir: {error}."
        ) from error


def check_folders(given: str) -> None:
    """Refuse folders that lie outside of ``--data_dir`` by their names."""
    for name in given.split("+"):
        _checked(name)


def _check_inside(root: Path, path: Path) -> None:
    """Refuse a link that leads out of `root`."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"{printable(str(path), 300)} is a link that leads out of --data_dir={root}: put the "
            "images themselves there, or give the folder that has all of them."
        )


class Files:
    """The images below some folders; links to folders are not followed."""

    def __init__(self, data_dir: str, given: str) -> None:
        """List the images below the folders ``A+B`` of `data_dir`, or below all of it.

        Raises:
            UserError: A folder is missing, lies elsewhere or cannot be read.
        """
        self.root = expand(data_dir).absolute()
        self._folders = folders(data_dir, given)
        self.links: list[str] = []  # to folders
        self.others: Counter[str] = Counter()  # files that are no images, by their suffixes
        self.every: dict[Path, None] = {}
        for folder in self._folders:
            self._walk(folder)
        self._by_name: _Index = {}
        self._by_stem: _Index = {}
        for path in self.every:
            name = of_file(path.name)
            self._by_name.setdefault(name, []).append(path)
            self._by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), []).append(path)
        self._loose = _plain(self._by_name), _plain(self._by_stem)

    def _walk(self, folder: Path) -> None:
        def refuse(error: OSError) -> None:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error

        for here, inner, names in os.walk(folder, onerror=refuse):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            place = Path(here)
            self.links += [str(place / name) for name in inner if (place / name).is_symlink()]
            for name in sorted(name for name in names if not name.startswith(".")):
                if (suffix := Path(name).suffix.lower()) in SUFFIXES:
                    self.every[place / name] = None
                else:
                    self.others[suffix or "no suffix"] += 1

    def find(self, name: str) -> Path | None:
        """Find the file that a table calls `name`; None if there is none.

        Args:
            name: of the file, with or without its suffix and the folders above; the letter case
                does not matter where it does not decide.

        Raises:
            UserError: `name` leads out of the folder, or several files with different bytes may be
                meant.
        """
        try:
            given = parts(name)
        except ValueError as error:
            raise UserError(f"{error}: expected the name of a file below it.") from error
        if not given:
            return None
        *above, file = given
        forms: list[tuple[_Index, Callable[[str], str]]]
        forms = [(self._by_name, str), (self._by_stem, str)]
        forms += [(index, plain) for index in self._loose]
        for index, form in forms:
            if found := self._below(index.get(form(file), []), above):
                return self._one(name, found, given)
        return None

    def _below(self, paths: Iterable[Path], above: list[str]) -> list[Path]:
        """Return the `paths` whose last folders are `above`."""
        if not above:
            return list(paths)
        wanted = list(map(plain, above))
        return [
            path
            for path in paths
            if [plain(of_file(one)) for one in path.relative_to(self.root).parts[:-1]][
                -len(wanted) :
            ]
            == wanted
        ]

    def _one(self, name: str, found: list[Path], given: tuple[str, ...]) -> Path:
        """Choose among files of one name: one that lies just there, else any if all are alike."""
        just = [path for path in found if path.parent in self._homes(given)]
        found = just if len(just) == 1 else found
        for path in found:
            if path.is_symlink():
                _check_inside(self.root, path)
        if len(found) > 1 and not _same_bytes(found):
            places = some(self.relative(path) for path in found[:2])
            raise UserError(
                f"the image {printable(repr(name))} may be any of {len(found)} files with "
                f"different bytes ({places}): write its folder and suffix in the table, or choose "
                f"the folders by {FLAG}.folders."
            )
        return found[0]

    def _homes(self, given: tuple[str, ...]) -> set[Path]:
        """Return where a file lies if its folders are written in full."""
        if len(given) == 1:
            return set()
        return {folder.joinpath(*given[:-1]) for folder in (self.root, *self._folders)}

    def relative(self, path: Path) -> str:
        """Return where a file lies in the folder of the images."""
        return of_file(path.relative_to(self.root).as_posix())


def _plain(index: _Index) -> _Index:
    loose: _Index = {}
    for name, paths in index.items():
        loose.setdefault(plain(name), []).extend(paths)
    return loose


def _same_bytes(paths: list[Path]) -> bool:
    """Tell whether all files have the same bytes; one that cannot be read has others."""
    try:
        if len({path.stat().st_size for path in paths}) > 1:
            return False
        return len({hashlib.sha256(read_regular(path, LIMIT)).digest() for path in paths}) == 1
    except OSError:
        return False
