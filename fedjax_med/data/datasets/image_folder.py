"""Your own images: ``train/<class>/<file>`` and ``test/<class>/<file>``, or client folders."""

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.images import folders, load


def build(data_dir: str, cache_dir: str, image_size: int, images: str = "memory") -> Dataset:
    """Read a folder of images, preparing it first if it is new or has changed.

    Args:
        data_dir: the folder that holds ``train/`` or ``client_0/``, ``client_1/``, ...
        cache_dir: where the prepared images are kept, by source folder and `image_size`.
        image_size: the side of the square that every image is cropped and scaled to, in pixels.
        images: ``memory``, ``disk`` or ``auto``: where the images are kept during use.

    Returns:
        The data set, each split sorted by (client, name); files that are not usable images are in
        `Dataset.unreadable`.

    Raises:
        UserError: `data_dir` is not such a folder, or `cache_dir` cannot be written.
    """
    return load.load("image_folder", folders.scan(data_dir), cache_dir, image_size, images)
