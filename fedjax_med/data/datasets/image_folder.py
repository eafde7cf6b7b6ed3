"""Your own images: ``train/<class>/<file>`` and ``test/<class>/<file>``, or client folders."""

from collections.abc import Sequence

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.images import load
from fedjax_med.data.images.folders import scan as scan


def build(
    data_dir: str,
    cache_dir: str,
    image_size: int,
    images: str = "memory",
    crop: str = "centre",
    *,
    rename: str = "",
    range: tuple[float, ...] = (),
    nested: bool = False,
) -> Dataset:
    """Read a folder of images, preparing it first if it is new or has changed.

    Args:
        data_dir: the folder that holds ``train/`` or ``client_0/``, ``client_1/``, ...
        cache_dir: where the prepared images are kept, by source folder and `image_size`.
        image_size: the side of the square that every image is scaled to, in pixels.
        images: ``memory``, ``disk`` or ``auto``: where the images are kept during use.
        crop: ``centre``, ``pad`` or ``stretch``: how images become square
            (`fedjax_med.data.images.decode.resize`).
        rename: ``OLD=NEW,OLD=NEW``: class folders, and the class whose images they hold.
        range: the grey levels shown as black and as white, of images of more than 8 bits whose
            files do not say it; needed for signed and floating-point levels.
        nested: whether images in folders below a class folder, such as a patient's, are of the
            class, too; else they are counted as left aside.

    Returns:
        The data set, each split sorted by (client, name); files that are not usable images are in
        `Dataset.unreadable`.

    Raises:
        UserError: `data_dir` is not such a folder, or `cache_dir` cannot be written.
    """
    source = scan(data_dir, rename, nested)
    return load.load("image_folder", source, cache_dir, image_size, images, crop, range)


def check_options(*, rename: str = "", range: Sequence[float] = (), nested: bool = False) -> None:
    """Refuse options that no images could fit."""
    del nested
    load.check_options(rename=rename, range=range)
