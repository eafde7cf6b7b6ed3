"""The README and the pages name what there is, and what they name exists."""

import re
from pathlib import Path

import pytest
import shipped

from fedjax_med.experiment import components

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMPONENTS = (ROOT / "docs" / "components.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_page_of_components_names_everything_that_there_is():
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
            assert f"`{name}`" in COMPONENTS, f"docs/components.md does not name {shelf}/{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    for name in re.findall(r"(?<![\w/])(?:configs|scripts|docs|tests)/[\w/]+\.\w+", text):
        assert (ROOT / name).exists() or "NAME" in name, name
    for link in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_headings_that_a_link_names_exist(page):
    for link, heading in re.findall(r"\]\((?!\w+:)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        target = page.parent / link if link else page
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", one).lower().replace(" ", "-") for one in headings}
        assert heading in anchors, f"{link}#{heading}"


def test_the_readme_is_read_in_three_minutes():
    words = len(re.sub(r"^\|.*$", "", README, flags=re.MULTILINE).split())
    assert words < 750, f"{words} words besides the tables: the rest belongs in docs/"


def test_variants_that_a_document_names_exist():
    named = set()
    for file in PAGES:
        named |= set(re.findall(r"configs/\w+\.py:[a-z]\w*", file.read_text()))
    assert named
    assert named <= {str(Path(path).relative_to(ROOT)) for path in shipped.VARIANTS}


def test_pages_have_no_open_places():
    for page in PAGES:
        assert "@@" not in page.read_text(), page


def test_the_tested_pythons_have_the_jax_of_the_lock():
    locked = re.findall(r"^jax==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    said = re.search(r"Tested versions are\s+(.*?),\s+which", README, re.DOTALL)
    assert locked
    assert said
    assert re.findall(r"jax ([\d.]*\d)", said[1]) == locked
