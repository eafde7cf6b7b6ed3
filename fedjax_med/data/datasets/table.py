"""Your own images as hospitals keep them: files in any folders, and a table that labels them."""

import sys
from collections import Counter

from fedjax_med.data import groups
from fedjax_med.data.dataset import Dataset, GroupTable
from fedjax_med.data.datasets import _table_files, _table_rows, _table_source
from fedjax_med.data.datasets._table_columns import Headings
from fedjax_med.data.images import agreement, load
from fedjax_med.data.images.folders import Source
from fedjax_med.errors import printable, some


def build(
    data_dir: str,
    cache_dir: str,
    image_size: int,
    images: str = "memory",
    crop: str = "centre",
    *,
    path: str = "",
    image: str = "",
    label: str = "",
    split: str = "",
    site: str = "",
    group: str = "",
    folders: str = "",
    names: str = "",
    missing: str = "refuse",
    test_fraction: float = 0.0,
    split_seed: int = 0,
    range: tuple[float, ...] = (),
) -> Dataset:
    """Read the images that a table lists, preparing them first if they are new or have changed.

    Args:
        data_dir: the folder that holds the images, at any depth.
        cache_dir: where the prepared images are kept.
        image_size: the side of the square that every image is scaled to, in pixels.
        images: ``memory``, ``disk`` or ``auto``: where the images are kept during use.
        crop: ``centre``, ``pad`` or ``stretch``: how images become square.
        path: of a CSV with one line for each image.
        image: the heading of the file names; empty: ``image``, ``image_id``, ``img_id``,
            ``isic_id``, ``file`` and the like.
        label: the heading of the classes; ``one-hot``, or headings with ``+`` between them: the
            column that has the 1 is the class. Empty: ``label``, ``dx``, ``diagnosis``,
            ``diagnostic``, ``class``, ``target`` and the like, else one-hot.
        split: the heading of ``train`` and ``test``; empty: ``split``, if there is one; ``none``.
        site: the heading of the sites, which are the clients, in the order of their names.
        group: the heading of what keeps images together, such as a patient or a lesion.
        folders: ``A+B``: the only folders in `data_dir` in which images are looked for.
        names: ``OLD:NEW,OLD:NEW``: labels of the table, and the classes that they stand for.
        missing: ``skip`` leaves out images that are not there; ``refuse``.
        test_fraction: of each class so much becomes Test, in whole groups, if the table has none.
        split_seed: decides which images these are.
        range: the grey levels shown as black and as white, as for ``image_folder``.

    Returns:
        The data set, each split sorted by (client, name).

    Raises:
        UserError: The table or the folder is not usable, or they do not fit each other.
    """
    test = _table_source.Share(test_fraction, split_seed)
    wanted = Headings(image, label, split, site, group)
    found = _table_source.scan(data_dir, path, wanted, folders, names, missing, test)
    _announce(found)
    source, rows = found.source, found.rows
    dataset = load.load("table", source, cache_dir, image_size, images, crop, range)
    if not rows.column:
        return dataset
    return groups.attached(dataset, found.groups, GroupTable(path, rows.column, rows.sha256))


def scan(
    data_dir: str,
    *,
    path: str = "",
    image: str = "",
    label: str = "",
    split: str = "",
    site: str = "",
    group: str = "",
    folders: str = "",
    names: str = "",
    missing: str = "refuse",
    test_fraction: float = 0.0,
    split_seed: int = 0,
) -> Source:
    """List the images of a table, as `build`, and open none.

    Raises:
        UserError: As in `build`.
    """
    test = _table_source.Share(test_fraction, split_seed)
    wanted = Headings(image, label, split, site, group)
    return _table_source.scan(data_dir, path, wanted, folders, names, missing, test).source


def check_options(
    *,
    path: str = "",
    folders: str = "",
    names: str = "",
    missing: str = "refuse",
    test_fraction: float = 0.0,
    split_seed: int = 0,
    range: tuple[float, ...] = (),
    **headings: str,
) -> None:
    """Refuse options that no images could fit, and a table that is not there."""
    del headings
    _table_source.check(missing, _table_source.Share(test_fraction, split_seed))
    _table_files.check_folders(folders)
    _table_rows.pairs(names)
    agreement.check_range(range)
    _table_rows.check_path(path)


def _announce(found: _table_source.Listed) -> None:
    """Say in one line what was chosen, so that the user can see whether it was meant."""
    source, ignored = found.source, dict(found.source.ignored)
    count = Counter(file.split for file in source.files)
    said = [found.rows.said]
    if left := ignored.get("rows of images that are missing"):
        said.append(f"left out: {left:,} rows of images that are missing")
    clients = f" at {len(source.clients):,} sites" if source.clients else ""
    print(
        f"Table {printable(source.table, 200)}: {'; '.join(said)}. {count['train']:,} images of "
        f"Train and {count['test']:,} of Test{clients}, {len(source.class_names):,} classes: "
        f"{some(source.class_names)}.",
        file=sys.stderr,
    )
