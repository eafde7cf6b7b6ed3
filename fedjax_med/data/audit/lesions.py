"""Lesions of which there are several photographs, by the column of a table."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.data.dataset import Dataset
from fedjax_med.data.metadata import Metadata, known
from fedjax_med.errors import printable

_EXAMPLES = 10  # listed in the table


class Lesions(NamedTuple):
    """The result of `find`. Copies and near-duplicates are one photograph."""

    table: str  # the path
    column: str
    image: str  # the heading of the images
    images: int  # of Train and Test
    known: int  # images whose lesion is known
    lesions: int
    several: int  # lesions with two different photographs or more in Train
    in_train: tuple[str, ...]  # images in Train with another photograph of their lesion there
    leaks: tuple[tuple[str, str], ...]  # images of Test, with one in Train of the same lesion


def find(
    dataset: Dataset,
    metadata: Metadata,
    column: str,
    image_column: str,
    near: npt.NDArray[np.integer],
    names: Sequence[str],
) -> Lesions:
    """Look for lesions with several photographs.

    Args:
        dataset: the images.
        metadata: of them, with the role "lesion".
        column: its heading.
        image_column: the heading of the images.
        near: numbers of the images of Train and Test; the same image has the same number.
        names: of the images, Train before Test.
    """
    cells = known([*metadata.train["lesion"], *metadata.test["lesion"]])
    size = dataset.train.num_examples
    train: dict[str, list[int]] = {}
    for image, lesion in enumerate(cells[:size]):
        train.setdefault(lesion, []).append(image)
    train.pop("", None)
    several = [images for images in train.values() if len(set(near[images].tolist())) > 1]
    leaks = []
    for image, lesion in enumerate(cells[size:], size):
        others = (other for other in train.get(lesion, ()) if near[other] != near[image])
        if (mate := next(others, None)) is not None:
            leaks.append((names[image], names[mate]))
    return Lesions(
        metadata.path,
        column,
        image_column,
        images=len(cells),
        known=sum(cell != "" for cell in cells),
        lesions=len({*cells} - {""}),
        several=len(several),
        in_train=tuple(names[image] for images in several for image in images),
        leaks=tuple(leaks),
    )


def to_json(found: Lesions) -> dict[str, Any]:
    """Convert the findings to dictionaries and lists that JSON can hold."""
    pairs = [{"test": test, "train": train} for test, train in found.leaks]
    return found._asdict() | {"leaks": pairs}


def lines(found: Lesions, more: str) -> list[str]:
    """Format the findings, with what to do; `more` names the file with the rest."""
    column, image = printable(found.column), printable(found.image)
    made = [
        f"{found.lesions:>5,}  lesions ({column}; {found.known:,} of {found.images:,} images have "
        "one)",
        f"{len(found.in_train):>5,}  images in Train of a lesion that another photograph in Train "
        f"shows, of {found.several:,} lesions",
        f"{len(found.leaks):>5,}  images of Test whose lesion is in Train, in another photograph",
        *(f"           test: {printable(a, 90)} and {printable(b, 90)}" for a, b in
          found.leaks[:_EXAMPLES]),
    ]  # fmt: skip
    if len(found.leaks) > _EXAMPLES:
        made.append(f"           ... and {len(found.leaks) - _EXAMPLES:,} more, see {more}")
    if found.in_train or found.leaks:
        made += [
            "         Warning: figures measure memory where a lesion is trained on and tested on. "
            "Keep lesions together:",
            f"         --config.groups.path={printable(found.table, 200)} "
            f"--config.groups.column={column}"
            + (f" --config.groups.image={image}" if image != "image" else ""),
        ]
    return made
