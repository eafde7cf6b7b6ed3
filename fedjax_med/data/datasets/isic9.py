"""The Kaggle set "Skin Cancer ISIC", nine classes of dermoscopic images from the ISIC archive.

https://www.kaggle.com/datasets/nodoubttome/skin-cancer9-classesisic
"""

from pathlib import Path

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.images import folders, load
from fedjax_med.errors import UserError

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


def build(data_dir: str, cache_dir: str, image_size: int, images: str = "memory") -> Dataset:
    """Read the nine-class skin-cancer set, preparing it first if it is new or has changed.

    Args:
        data_dir: the folder that holds ``Train/`` and ``Test/``, the folder above it (as Kaggle
            packs it), or the output of ``fedjax-med partition``.
        cache_dir: where the prepared images are kept, by source folder and `image_size`.
        image_size: the side of the square that every image is cropped and scaled to, in pixels.
        images: ``memory``, ``disk`` or ``auto``: where the images are kept during use.

    Raises:
        UserError: `data_dir` is missing or does not hold the nine classes, or `cache_dir` cannot be
            written.
    """
    root = Path(data_dir).expanduser()
    if not data_dir or not root.is_dir():
        given = f"--data_dir={data_dir}: there is no such folder" if data_dir else "no --data_dir"
        raise UserError(
            f"isic9 needs the skin-cancer images, and got {given}. To download them: "
            'pip install -e ".[kaggle]", then '
            "python scripts/fetch_isic9.py --out=FOLDER, then --data_dir=FOLDER."
        )
    source = folders.scan(data_dir)
    other = sorted(set(source.class_names) ^ set(CLASS_NAMES))
    if other:
        state = "has the further class" if other[0] in source.class_names else "lacks the class"
        raise UserError(
            f"{root} {state} {other[0]!r}: isic9 has exactly nine classes. "
            "For other images use --config.dataset.name=image_folder."
        )
    return load.load("isic9", source, cache_dir, image_size, images)
