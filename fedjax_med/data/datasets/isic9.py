"""The Kaggle set "Skin Cancer ISIC", nine classes of dermoscopic images from the ISIC archive.

https://www.kaggle.com/datasets/nodoubttome/skin-cancer9-classesisic
"""

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.images import folders, load, manifest
from fedjax_med.data.images.load import check_options as check_options
from fedjax_med.errors import UserError, expand

CLASS_NAMES = (
    "actinic keratosis",
    "basal cell carcinoma",
    "dermatofibroma",
    "melanoma",
    "nevus",
    "pigmented benign keratosis",
    "seborrheic keratosis",
    "squamous cell carcinoma",
    "vascular lesion",
)


def build(
    data_dir: str,
    cache_dir: str,
    image_size: int,
    images: str = "memory",
    crop: str = "centre",
    *,
    rename: str = "",
    range: tuple[float, ...] = (),
) -> Dataset:
    """Read the nine-class skin-cancer set, preparing it first if it is new or has changed.

    Args:
        data_dir: the folder that holds ``Train/`` and ``Test/``, the folder above it (as Kaggle
            packs it), or the output of ``fedjax-med partition``.
        cache_dir: where the prepared images are kept, by source folder and `image_size`.
        image_size: the side of the square that every image is scaled to, in pixels.
        images: ``memory``, ``disk`` or ``auto``: where the images are kept during use.
        crop: ``centre``, ``pad`` or ``stretch``: how images become square
            (`fedjax_med.data.images.decode.resize`).
        rename: ``OLD=NEW,OLD=NEW``: class folders, and the class whose images they hold.
        range: the grey levels shown as black and as white, of images of more than 8 bits whose
            files do not say it; needed for signed and floating-point levels.

    Raises:
        UserError: `data_dir` is missing or does not hold the nine classes, or `cache_dir` cannot be
            written.
    """
    return load.load("isic9", scan(data_dir, rename), cache_dir, image_size, images, crop, range)


def scan(data_dir: str, rename: str = "") -> folders.Source:
    """List the images, as `fedjax_med.data.images.folders.scan`, and check the classes."""
    root = expand(data_dir)
    if not data_dir or not root.is_dir():
        given = f"--data_dir={data_dir}: there is no such folder" if data_dir else "no --data_dir"
        raise UserError(
            f"isic9 needs the skin-cancer images, and got {given}. To download them: "
            'pip install -e ".[kaggle]", then '
            "python scripts/fetch_isic9.py --out=FOLDER, then --data_dir=FOLDER."
        )
    source = folders.scan(data_dir, rename)
    other = sorted(set(source.class_names) ^ set(CLASS_NAMES))
    if source.clients and (source.root / manifest.NAME).exists():
        # A correction may have emptied a class before `fedjax-med partition` wrote the folders.
        other = sorted(set(source.class_names) - set(CLASS_NAMES))
    if other:
        state = "has the further class" if other[0] in source.class_names else "lacks the class"
        raise UserError(
            f"{root} {state} {other[0]!r}: isic9 has exactly nine classes. "
            "For other images use --config.dataset.name=image_folder."
        )
    return source
