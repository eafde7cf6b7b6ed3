"""The site: what its hooks change, that it loads nothing from outside, what the reference lists."""

import importlib.util
import re
from pathlib import Path

import pytest

import fedjax_med as fm
from fedjax_med.experiment import components

ROOT = Path(__file__).parent.parent.parent
API = ROOT / "docs" / "api"
SPEC = importlib.util.spec_from_file_location("docs_site", ROOT / "scripts" / "docs_site.py")
docs_site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(docs_site)


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("docs/extending.md", "../CONTRIBUTING.md", "contributing.md"),
        ("docs/methods.md", "../configs/isic9_small.py", "configs/isic9_small.py"),
        ("docs/api/privacy.md", "../privacy.md", "../privacy.md"),
        ("docs/api/privacy.md", "../../CHANGELOG.md", "../changelog.md"),
        ("docs/index.md", "own_data.md#arrays", "own_data.md#arrays"),
        ("benchmarks/README.md", "../docs/many_clients.md#padding", "many_clients.md#padding"),
        ("CONTRIBUTING.md", "docs/design.md", "design.md"),
        ("docs/index.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("docs/index.md", "#install", "#install"),
        ("docs/index.md", "../nowhere.md", "../nowhere.md"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(source, link, there):
    assert docs_site.relink(f"a [b]({link}) c", source) == f"a [b]({there}) c"


@pytest.mark.parametrize(
    "loaded",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.org/a.css">',
        '<img alt="" src="http://example.org/a.png">',
        '<style>@import "https://example.org/a.css";</style>',
        "<style>@font-face {src: url(https://example.org/a.woff2)}</style>",
        '<p style="background: url(https://example.org/a.png)">',
    ],
)
def test_what_a_page_loads_from_outside_is_found(loaded):
    (found,) = docs_site.loaded_from_outside(f"<html>{loaded}</html>")
    assert "example.org/a." in found


def test_links_to_follow_and_own_files_are_not_loaded_from_outside():
    page = (
        '<html><a href="https://example.org">x</a><script src="a.js"></script><img src="../b.png">'
        '<link rel="canonical" href="https://example.org/">'
        "<style>a {src: url(c.woff2)}</style></html>"
    )
    assert not docs_site.loaded_from_outside(page)
    assert docs_site.loaded_from_outside("p {src: url('https://example.org/a.woff2')}")
    assert not docs_site.loaded_from_outside("p {src: url('fonts/a.woff2')}")


def documented(page):
    return set(re.findall(r"^::: fedjax_med\.(\S+)", page.read_text(), re.MULTILINE))


def test_the_reference_has_every_public_name():
    names = {name for name in fm.__all__ if not hasattr(getattr(fm, name), "__path__")}
    in_experiment = {"Experiment", "Spec"}  # there with the classes of their fields
    assert documented(API / "library.md") == names - in_experiment
    configs = {f"experiment.config.{name}" for name in in_experiment}
    assert configs <= documented(API / "experiment.md")


@pytest.mark.parametrize("page", ["client", "data", "models", "algorithms", "privacy"])
def test_the_reference_has_what_a_package_says_is_public(page):
    package = getattr(fm, page)
    code = Path(package.__file__).read_text()
    said = re.findall(r"import (\w+) as \1", code)
    assert said
    assert {f"{page}.{name}" for name in said} <= documented(API / f"{page}.md")
    for name in said:
        assert getattr(package, name) is not None


@pytest.mark.parametrize(
    ("page", "package"),
    [
        *((shelf, shelf) for shelf in ("aggregators", "algorithms", "attacks", "cohorts")),
        *((shelf, shelf) for shelf in ("models", "transforms")),
        ("data", "data.datasets"),
        ("data", "data.partitions"),
    ],
)
def test_the_reference_has_every_component(page, package):
    files = {f"{package}.{name}" for name in components.names(package.rpartition(".")[2])}
    assert files
    assert files <= documented(API / f"{page}.md")


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = set(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE))
    assert listed - set(docs_site.PLACES.values()) == pages - {"index.md"}
    assert "index.md" in listed


def test_the_lock_of_the_docs_has_a_hash_for_each_package_and_no_jax():
    lock = (ROOT / "requirements-docs.lock").read_text()
    packages = re.findall(r"^(\S+)==", lock, re.MULTILINE)
    assert {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python"} <= set(packages)
    assert not {"jax", "numpy", "flax", "optax"} & set(packages)
    assert not re.search(r"https?://|--index|--find-links", lock)
    for block in re.split(r"^(?=\S+==)", lock, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block
