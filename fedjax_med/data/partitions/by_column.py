"""Clients are sites; a CSV names the site of each image."""

import numpy as np

from fedjax_med.data.dataset import Split
from fedjax_med.data.partitions import Groups, Index, _table, by_owner
from fedjax_med.errors import UserError, some


def _listed(names: list[str], path: str, entries: list[_table.Entry]) -> dict[str, _table.Entry]:
    """Index the table by the images that its lines name; `names` give the classes."""
    return _table.by_image(path, entries, {name.partition("/")[0] for name in names})


def _sites(split: Split, path: str, column: str, image: str) -> tuple[list[str], list[str]]:
    """Find the site of each example, and the image entry of the CSV line that names it."""
    names = split.name.tolist()
    listed = _listed(names, path, _table.read(path, column, image))
    keys = _table.match(path, names, listed)
    return [listed[key].site for key in keys], keys


def check_options(*, path: str = "", column: str = "site", image: str = "image") -> None:
    """Refuse a table that is not there."""
    del column, image  # its headings
    _table.check_path(path)


def count_clients(
    names: list[str], *, path: str = "", column: str = "site", image: str = "image"
) -> int:
    """Count the sites of the images `names`; of all lines if no names are known."""
    entries = _table.read(path, column, image)
    if not names:
        return len({entry.site for entry in entries})
    listed = _listed(names, path, entries)
    found = _table.candidates(names, listed)
    return len({listed[key].site for keys in found for key in keys})


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

    The column `image` has "<class>/<file>" or "<file>", with or without the suffix and the folders
    above; letter case does not matter where it does not decide. Lines for images that are not among
    the examples (test images, removed ones) are ignored; `seed` is not used.

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
