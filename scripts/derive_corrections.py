"""Derives a table of corrections for a folder of images from a table of official diagnoses.

Run: python scripts/derive_corrections.py --data_dir=DATA --metadata=METADATA.csv --table=isic9.csv

The metadata are a CSV with the columns image, official_diagnosis and source_of_diagnosis, such as
the public tables of ISIC 2019 give them. A row of the result is an image, its label and the basis:
*official* where its diagnosis is another class than its folder, *inferred* where it has none and
(1) every diagnosed image of its folder is of one other class, or (2) it lies in two folders, and
every diagnosed image that lies in both is of one of them.
"""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from fedjax_med.data.images import folders

_DATA_DIR = flags.DEFINE_string("data_dir", "", "the images, Train/CLASS/FILE and Test/CLASS/FILE")
_METADATA = flags.DEFINE_string("metadata", "", "the CSV of official diagnoses")
_TABLE = flags.DEFINE_string("table", "corrections.csv", "the table that is written")
_CLASSES = flags.DEFINE_list(
    "classes",
    "AK=actinic keratosis,BCC=basal cell carcinoma,BKL=pigmented benign keratosis,"
    "DF=dermatofibroma,MEL=melanoma,NV=nevus,SCC=squamous cell carcinoma,VASC=vascular lesion",
    "DIAGNOSIS=CLASS,...: the class of each diagnosis",
)


class Diagnosis(NamedTuple):
    """What the official tables say of an image."""

    label: str  # the class; "" without a diagnosis
    source: str


class Row(NamedTuple):
    """A row of the table of corrections."""

    image: str
    label: str
    basis: str


def read(metadata: str, classes: dict[str, str]) -> dict[str, Diagnosis]:
    """Read the diagnosis of each image, by its name without suffix."""
    with Path(metadata).open(encoding="utf-8", newline="") as file:
        return {
            row["image"]: Diagnosis(
                classes[row["official_diagnosis"]] if row["official_diagnosis"] else "",
                row["source_of_diagnosis"],
            )
            for row in csv.DictReader(file)
        }


def derive(places: dict[str, set[str]], diagnoses: dict[str, Diagnosis]) -> list[Row]:
    """List the corrections, by image.

    Args:
        places: the class folders of each image.
        diagnoses: of the images that have one.
    """
    official = {image: of.label for image, of in diagnoses.items() if of.label and image in places}
    rows = []
    for image, published in sorted(places.items()):
        if label := official.get(image):
            if published != {label}:
                rows.append(Row(image, label, f"official: {diagnoses[image].source}"))
            continue
        if found := _by_its_folder(published, places, official) or _by_both(
            published, places, official
        ):
            rows.append(Row(image, *found))
    return rows


def _by_its_folder(
    published: set[str], places: dict[str, set[str]], official: dict[str, str]
) -> tuple[str, str] | None:
    """Infer a label from the diagnosed images of a folder that are all of one other class."""
    for folder in sorted(published):
        known = {label for image, label in official.items() if folder in places[image]}
        if len(known) == 1 and folder not in known:
            label = known.pop()
            return label, f"inferred: every diagnosed image of {folder} is {label}"
    return None


def _by_both(
    published: set[str], places: dict[str, set[str]], official: dict[str, str]
) -> tuple[str, str] | None:
    """Infer a label from the diagnosed images that lie in the same two folders."""
    if len(published) < 2:
        return None
    known = {label for image, label in official.items() if places[image] == published}
    if len(known) != 1:
        return None
    both, label = " and ".join(sorted(published)), known.pop()
    return label, f"inferred: every diagnosed image in both {both} is {label}"


def write(rows: Iterable[Row], out: str) -> None:
    """Write the table of corrections."""
    with Path(out).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def main(argv: list[str]) -> None:
    """Derive the table of --data_dir and --metadata, and write it to --table."""
    if len(argv) > 1 or not (_DATA_DIR.value and _METADATA.value):
        sys.exit("derive_corrections: give --data_dir=FOLDER, --metadata=CSV and --table=CSV.")
    classes = dict(one.split("=", 1) for one in _CLASSES.value)
    places: dict[str, set[str]] = {}
    for file in folders.scan(_DATA_DIR.value).files:
        places.setdefault(file.path.stem, set()).add(file.path.parent.name)
    rows = derive(places, read(_METADATA.value, classes))
    write(rows, _TABLE.value)
    print(f"Wrote {len(rows):,} corrections to {_TABLE.value}.")


if __name__ == "__main__":
    app.run(main)
