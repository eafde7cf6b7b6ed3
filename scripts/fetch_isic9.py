"""Downloads the Kaggle set "Skin Cancer ISIC" (about 800 MB) once, for ``configs/isic9.py``.

Run: pip install -e ".[kaggle]" && python scripts/fetch_isic9.py --out=data/isic9
"""

import shutil
import sys
from pathlib import Path

from absl import app, flags

from fedjax_med.errors import UserError, expand

_OUT = flags.DEFINE_string("out", "data/isic9", "the folder that Train/ and Test/ are copied to")

_KAGGLE_SET = "nodoubttome/skin-cancer9-classesisic"


def main(argv: list[str]) -> None:
    """Download the set through kagglehub and copy its two splits to ``--out``."""
    if len(argv) > 1:
        sys.exit(f"fetch_isic9: expected only --out=FOLDER, got {argv[1]!r}.")
    try:
        out = expand(_OUT.value)
    except UserError as error:
        sys.exit(f"fetch_isic9: {error}")
    try:
        import kagglehub
    except ImportError:
        sys.exit('fetch_isic9: kagglehub is missing: pip install -e ".[kaggle]"')
    try:
        downloaded = Path(kagglehub.dataset_download(_KAGGLE_SET))
    except Exception as error:
        sys.exit(f"fetch_isic9: {_KAGGLE_SET} could not be downloaded: {error}")
    for split in ("Train", "Test"):
        # Kaggle packs both splits into one more folder.
        found = next((path for path in downloaded.rglob(split) if path.is_dir()), None)
        if found is None:
            sys.exit(f"fetch_isic9: expected a folder {split} in {downloaded}, found none.")
        shutil.copytree(found, out / split, dirs_exist_ok=True)
    print(f"The images are in {out}: fedjax-med audit --data_dir={out}")


if __name__ == "__main__":
    app.run(main)
