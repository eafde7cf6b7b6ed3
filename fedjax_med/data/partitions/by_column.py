"""Clients are sites; a CSV names the site of each image."""

import csv
from pathlib import Path, PurePosixPath

import numpy as np

from fedjax_med.data.dataset import Split
from fedjax_med.data.partitions import OPTIONS, Groups, Index, by_owner
from fedjax_med.errors import UserError, check_name, printable, some
from fedjax_med.files import read_text, unreadable

_LIMIT = 2**30  # bytes of the table: ten million lines of 100 bytes
_ADVICE = f"Give a CSV of images and their sites by {OPTIONS}.path."


def _read_sites(path: str, column: str, image: str) -> dict[str, str]:
    """Read the CSV at `path`: image -> site."""
    if not path:
        raise UserError(f"by_column needs a CSV of images and their sites: set {OPTIONS}.path.")
    sites: dict[str, str] = {}
    file = Path(path)
    try:
        # utf-8-sig: spreadsheets begin a CSV with a byte order mark.
        lines = read_text(file, _LIMIT, _ADVICE, "utf-8-sig").splitlines()
        first = lines[0] if lines else ""
        # European spreadsheets separate by semicolons.
        rows = csv.DictReader(lines, delimiter=";" if ";" in first and "," not in first else ",")
        for name, option in ((image, "image"), (column, "column")):
            if name not in (rows.fieldnames or ()):
                where = f"the columns of {path} (set {OPTIONS}.{option} to the right one)"
                check_name(name, rows.fieldnames or (), where)
        for row in rows:
            key, site = (row[image] or "").strip(), (row[column] or "").strip()
            key = key[6:] if key.lower().startswith("train/") else key
            if not (key and site) or key in sites:
                fault = "lacks its name or its site"
                if key in sites:
                    fault = "is listed twice (where two classes have it, write '<class>/<file>')"
                raise UserError(
                    f"{path}, line {rows.line_num}: the image {printable(repr(key))} {fault}."
                )
            sites[key] = site
    except csv.Error as error:
        raise unreadable(file, error, _ADVICE) from error
    return sites


def _sites(split: Split, path: str, column: str, image: str) -> tuple[list[str], list[str]]:
    """Find the site of each example, and the image entry of the CSV line that names it."""
    sites = _read_sites(path, column, image)
    found: list[list[str]] = []
    for name in split.name.tolist():
        file = PurePosixPath(name)
        forms = (name, str(file.with_suffix("")), file.name, file.stem)
        found.append([form for form in dict.fromkeys(forms) if form in sites])
    faulty = [position for position, keys in enumerate(found) if len(keys) != 1]
    if faulty:
        keys = found[faulty[0]]
        where = f"as {keys[0]!r} and as {keys[1]!r}" if keys else "nowhere"
        more = f" ({len(faulty) - 1} more images are like this)" if len(faulty) > 1 else ""
        raise UserError(
            f"{path}: expected the image {str(split.name[faulty[0]])!r} on one line, found it "
            f"{where}{more}."
        )
    keys = [one[0] for one in found]
    return [sites[key] for key in keys], keys


def client_names(
    split: Split, *, path: str = "", column: str = "site", image: str = "image"
) -> list[str]:
    """Return the sites, sorted by name: the clients in order."""
    return sorted(set(_sites(split, path, column, image)[0]))


def build(
    split: Split,
    groups: Groups,
    num_clients: int,
    seed: int,
    *,
    path: str = "",
    column: str = "site",
    image: str = "image",
) -> list[Index]:
    """Divide by a CSV that names each image's site; the sites, sorted by name, are the clients.

    The column `image` has "<class>/<file>" or "<file>", with or without the suffix. Lines for
    images that are not among the examples (test images, removed ones) are ignored; `seed` is not
    used.

    Raises:
        UserError: The CSV cannot be read, lacks a column or an image, lists an image twice or
            ambiguously, or does not have `num_clients` sites.
    """
    site, keys = _sites(split, path, column, image)
    named: dict[str, int] = {}  # the first example that used a CSV line
    for position, key in enumerate(keys):
        other = named.setdefault(key, position)
        if groups[other] != groups[position]:
            raise UserError(
                f"{path}: {key!r} may be {split.name[other]} or {split.name[position]}: write "
                "'<class>/<file>'."
            )
    names = sorted(set(site))
    if len(names) != num_clients:
        raise UserError(
            f"{path} has {len(names)} sites in column {column!r} ({some(names)}), but "
            f"num_clients is {num_clients}: set --config.num_clients={len(names)}."
        )
    place = {name: number for number, name in enumerate(names)}
    return by_owner(np.array([place[name] for name in site]), num_clients)
