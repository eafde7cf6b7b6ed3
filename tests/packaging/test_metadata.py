"""What the package says about itself agrees with itself and with the lock."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import fedjax_med
from fedjax_med import __main__ as program

ROOT = Path(__file__).parent.parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
LICENCE = (ROOT / "LICENSE").read_text()


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", fedjax_med.__version__)
    assert CITATION["version"] == fedjax_med.__version__


def test_every_file_of_the_package_is_installed():
    patterns = SETUPTOOLS["package-data"]["fedjax_med"]
    package = ROOT / "fedjax_med"
    data = {path for pattern in patterns for path in package.glob(pattern)}
    beside = {path for path in package.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert beside == data


def test_the_citation_has_what_its_format_requires():
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["type"] == "software"
    assert CITATION["authors"] == PROJECT["authors"] == PROJECT["maintainers"]
    assert CITATION["license"] == PROJECT["license"]
    assert all(isinstance(word, str) for word in CITATION["keywords"])


def test_the_licence_is_that_of_the_metadata():
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE"]
    assert re.search(r"Apache License\s+Version 2\.0", LICENCE)
    assert not [line for line in PROJECT["classifiers"] if line.startswith("License")]


def test_the_classifiers_name_the_tested_pythons():
    said = re.search(r"Tested versions are(.*?),\s+which", (ROOT / "README.md").read_text(), re.S)
    tested = set(re.findall(r"\b3\.\d\d\b", said[1]))
    named = " ".join(PROJECT["classifiers"])
    assert set(re.findall(r"Python :: (3\.\d+)", named)) == tested
    assert PROJECT["requires-python"] == f">={min(tested)}"


def test_the_lock_holds_what_builds_its_own_source_archives():
    for lock in ("requirements.lock", "requirements-dev.lock"):
        locked = set(re.findall(r"^([\w-]+)==", (ROOT / lock).read_text(), re.MULTILINE))
        assert {"setuptools", "wheel"} <= locked


def test_windows_is_refused_in_one_line_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "fedjax_med.cli", None)
    assert program.main() == 2
    assert re.fullmatch(r"fedjax-med: .*Windows.*\n", capsys.readouterr().err)
    assert not [line for line in PROJECT["classifiers"] if "Windows" in line]


def test_the_page_on_installation_lists_every_extra():
    page = (ROOT / "docs" / "installation.md").read_text()
    table = page.partition("| extra | for |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == {
        *PROJECT["optional-dependencies"]
    }
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"[`\n]make ([a-z][\w-]*)", page)) <= targets


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_other_systems_are_not_refused(platform, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(sys, "argv", ["fedjax-med", "--version"])
    monkeypatch.setattr(program, "end_on_signals", lambda: None)
    assert program.main() == 0
    assert capsys.readouterr().out.strip() == fedjax_med.__version__
