"""A table says which site each image is from."""

import csv
from pathlib import Path, PurePosixPath

import numpy as np

from fedjax_med.errors import UserError, check_name
from fedjax_med.partitions import OPTIONS, Groups, Index
from fedjax_med.types import Split


def _read_sites(path: str, column: str, image: str) -> dict[str, str]:
    """What the CSV at `path` says: image -> site."""
    if not path:
        raise UserError(f"by_column needs a CSV of images and their sites: set {OPTIONS}.path.")
    sites: dict[str, str] = {}
    try:
        # utf-8-sig: spreadsheets begin a CSV with a byte order mark.
        rows = csv.DictReader(Path(path).read_text("utf-8-sig").splitlines())
        for name in (image, column):
            check_name(name, rows.fieldnames or (), f"the columns of {path}")
        for row in rows:
            key, site = (row[image] or "").strip(), (row[column] or "").strip()
            if not (key and site) or key in sites:
                fault = "is listed twice" if key in sites else "lacks its name or its site"
                raise UserError(f"{path}, line {rows.line_num}: the image {key!r} {fault}.")
            sites[key] = site
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"by_column cannot read {OPTIONS}.path={path!r}: {error}.") from error
    return sites


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
    """Follow a CSV that names each image's site; the sites, sorted by name, are the clients.

    The column `image` has "<class>/<file>", the file name or its stem. Lines for images that are
    not among the examples (test images, cleaned ones) are ignored; `seed` is not used.

    Raises:
        UserError: The CSV cannot be read, lacks a column or an image, lists an image twice or
            ambiguously, or has another number of sites.
    """
    sites = _read_sites(path, column, image)
    named: dict[str, int] = {}  # the example that a line was first used for
    site = []
    for position, name in enumerate(split.name.tolist()):
        file = PurePosixPath(name)
        keys = [key for key in dict.fromkeys((name, file.name, file.stem)) if key in sites]
        if len(keys) != 1:
            found = f"as {keys[0]!r} and as {keys[1]!r}" if keys else "nowhere"
            raise UserError(f"{path}: expected the image {name!r} on one line, found it {found}.")
        other = named.setdefault(keys[0], position)
        if groups[other] != groups[position]:
            raise UserError(
                f"{path}: {keys[0]!r} may be {split.name[other]} or {name}: write '<class>/<file>'."
            )
        site.append(sites[keys[0]])
    names = sorted(set(site))
    if len(names) != num_clients:
        raise UserError(
            f"{path} has {len(names)} sites in column {column!r} ({', '.join(names)}), but "
            f"num_clients is {num_clients}: set --config.num_clients={len(names)}."
        )
    return [np.flatnonzero(np.array(site) == name) for name in names]
