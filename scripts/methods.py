"""Trains and tests everything that docs/methods.md reports, and writes the page.

Run: python scripts/methods.py --data_dir=DATA [--cache_dir=FOLDER] [--workdir=runs/methods]

Every run is configs/isic9_small.py with a few fields changed (studies/tables.py), tested on a fifth
of Train: seed s leaves out fold s (modulo 5), and Test is not touched. Some of the tables alone:
--tables=algorithms,attacks,compression,privacy. Given again it goes on where it stopped and writes
the file anew.

Runs go on one core each, so many at a time (--jobs): about two hours on two cores, and a third of
it with --seeds=0.
"""

import argparse
import sys

from studies.paths import path
from studies.runner import ROOT, Folders, train_missing
from studies.tables import TABLES, runs
from studies.text import document

from fedjax_med.files import replacing
from fedjax_med.run.workdir import CACHE_DIR

OUT = ROOT / "docs" / "methods.md"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; ends the program after a mistake in it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data_dir", type=path, required=True)
    parser.add_argument("--cache_dir", type=path, default=CACHE_DIR)
    parser.add_argument("--workdir", type=path, default="runs/methods")
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write_only", action="store_true", help="of what is there already")
    given = parser.parse_args(arguments)
    given.tables = given.tables.split(",")
    if unknown := set(given.tables) - set(TABLES):
        parser.error(f"expected --tables out of {', '.join(TABLES)}, got {', '.join(unknown)}.")
    if given.jobs < 1:
        parser.error(f"expected --jobs >= 1, got {given.jobs}.")
    return given


def main(arguments: list[str]) -> int:
    """Train what is missing, then write the page; return the exit code."""
    given = parse(arguments)
    every = runs(given.tables, [int(seed) for seed in given.seeds.split(",")])
    folders = Folders(str(given.data_dir), str(given.cache_dir), given.workdir.absolute())
    wrong = 0 if given.write_only else train_missing(every, folders, given.jobs)
    with replacing(OUT) as temporary:
        temporary.write_text(document(every, folders.workdir))
    print(f"Written: {OUT}" + (f"; {wrong} runs went wrong" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
