"""Drawn images of two classes; a third of Test is of lesions that Train has."""

import numpy as np
from PIL import Image


def draw(root, brightest, apart):
    """Write Train, Test and lesions.csv into `root`, which is returned.

    Noise of 0 to `brightest` on every image; the second class is brighter by `apart`.
    """
    rows, rng = ["image,lesion"], np.random.default_rng(0)
    for split, count in (("Train", 30), ("Test", 12)):
        for number, label in enumerate("ab"):
            (root / split / label).mkdir(parents=True)
            for one in range(count):
                pixels = rng.integers(0, brightest, (16, 16, 3)) + apart * number
                name = f"{label}{one}{split}"
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / label / f"{name}.png")
                lesion = one // 2 if split == "Train" else one // 2 + 13
                rows.append(f"{name},{label}{lesion}")
    (root / "lesions.csv").write_text("\n".join(rows))
    return root
