"""The README names what there is, and what it names exists."""

import re
from pathlib import Path

from fedjax_med.experiment import components

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_names_everything_that_there_is():
    for shelf in (
        "algorithms",
        "attacks",
        "cohorts",
        "datasets",
        "models",
        "partitions",
        "aggregators",
        "transforms",
    ):
        for name in components.names(shelf):
            assert f"`{name}`" in README, f"the README does not name {shelf}/{name}"


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"(?:configs|scripts|docs)/\w+\.\w+", README):
        assert (ROOT / name).exists(), name


def test_readme_has_no_open_places():
    assert "@@" not in README


def test_the_tested_pythons_have_the_jax_of_the_lock():
    locked = re.findall(r"^jax==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    said = re.search(r"Tested versions are\s+(.*?),\s+which", README, re.DOTALL)
    assert locked
    assert said
    assert re.findall(r"jax ([\d.]*\d)", said[1]) == locked
