"""The experiments of configs/: its files and their variants."""

from pathlib import Path

from fedjax_med.experiment import config_file

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "configs").glob("*.py"))
# By what --config= takes.
VARIANTS = {
    f"{file}:{name}": variant
    for file in FILES
    for name, variant in config_file.variants(str(file)).items()
}
EXPERIMENTS = [*map(str, FILES), *VARIANTS]


def short(path):
    """The name of a test of the experiment at `path`."""
    return path.rpartition("/")[2]
