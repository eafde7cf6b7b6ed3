"""Drawn images as hospitals keep them: files in folders that say nothing, and a table."""

import csv

import numpy as np
from PIL import Image

DX = ("bkl", "mel", "nv")


def image(path, brightness, rng):
    """Write a noisy image whose class shows in its brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 100, (16, 16, 3)) + brightness
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def table(path, rows):
    with path.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    return path


def ham10000(root, lesions=60, sites=5):
    """Write images in two folders, and a table in the form of HAM10000_metadata.csv.

    Lesion i is of class i % 3, has 1 + i % 3 images, and lies at site i % 5.
    """
    rng, rows, number = np.random.default_rng(0), [], 0
    for lesion in range(lesions):
        for _ in range(1 + lesion % 3):
            name = f"ISIC_{24306 + number:07}"
            folder = root / f"HAM10000_images_part_{1 + number % 2}"
            image(folder / f"{name}.png", 75 * (lesion % 3), rng)
            dx = DX[lesion % 3]
            rows.append([f"HAM_{lesion:07}", name, dx, "histo", "50.0", "male", "scalp"])
            rows[-1].append(f"site_{lesion % sites}")
            number += 1
    head = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"]
    return table(root / "HAM10000_metadata.csv", [head, *rows])
