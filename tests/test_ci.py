"""Continuous integration finds the oldest and the newest supported Python, and tests on both."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("awk", "bash", "dirname", "ls", "sort")


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!{shutil.which('bash')}\n{text}")
    file.chmod(0o755)


def add_python(file, version, level="final", missing="-"):
    """An interpreter that takes itself for `version`; it can't import the module `missing`."""
    info = (*map(int, version.split(".")), 0, level, 0)
    disguise = f"import sys; sys.version_info = {info}; sys.executable = '{file}'"
    disguise += f"; sys.modules['{missing}'] = None"
    write(file, f"[ \"$1\" = -c ] && exec {sys.executable} -c \"{disguise}; exec('''$2''')\"\n")


@pytest.fixture
def machine(tmp_path):
    """A folder that is the whole PATH, with the tools that the scripts need and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def run(script, machine):
    return subprocess.run(
        [shutil.which("bash"), ROOT / script],
        env={"PATH": str(machine)},
        capture_output=True,
        text=True,
        check=False,
    )


def found(machine):
    """What is found, what is said to be missing, the exit code."""
    done = run("scripts/pythons.sh", machine)
    return dict(line.split() for line in done.stdout.splitlines()), done.stderr, done.returncode


def test_the_oldest_and_the_newest_python_are_found(machine):
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        add_python(machine / f"python{version}", version)
    expected = {version: str(machine / f"python{version}") for version in ("3.11", "3.14")}
    assert found(machine) == (expected, "", 0)


def test_a_python_that_only_pyenv_has_is_found_behind_a_shim_that_refuses(machine, tmp_path):
    kept = tmp_path / "versions" / "3.13.2" / "bin" / "python3"
    add_python(kept, "3.13")
    write(machine / "pyenv", f"echo {tmp_path}\n")
    write(machine / "python3.13", "echo not this version >&2; exit 127\n")
    add_python(machine / "python3", "3.11")
    expected = {"3.11": str(machine / "python3"), "3.13": str(kept)}
    assert found(machine) == (expected, "", 0)


def test_the_path_comes_before_pyenv(machine, tmp_path):
    add_python(tmp_path / "versions" / "3.11.9" / "bin" / "python3", "3.11")
    write(machine / "pyenv", f"echo {tmp_path}\n")
    add_python(machine / "python3.11", "3.11")
    assert found(machine)[0] == {"3.11": str(machine / "python3.11")}


@pytest.mark.parametrize(
    ("version", "missing"),
    [("3.11", "Python 3.13 or later was not found.\n"), ("3.13", "Python 3.11, the oldest")],
)
def test_one_python_is_enough_and_the_other_is_said_to_be_missing(machine, version, missing):
    add_python(machine / f"python{version}", version)
    pythons, said, code = found(machine)
    assert (list(pythons), code) == ([version], 0)
    assert said.startswith(missing)


def test_no_python_is_an_error(machine):
    add_python(machine / "python3.12", "3.12")
    pythons, said, code = found(machine)
    assert not pythons
    assert code == 1
    assert said.count("not found") == 2


def test_previews_and_pythons_that_make_no_environments_are_passed_over(machine):
    add_python(machine / "python3.11", "3.11", missing="ensurepip")
    add_python(machine / "python3.13", "3.13")
    add_python(machine / "python3.15", "3.15", level="candidate")
    assert list(found(machine)[0]) == ["3.13"]


@pytest.mark.parametrize("fails", ["3.11", "3.13", "neither"])
def test_every_test_runs_on_both_each_in_an_environment_of_its_own(machine, fails):
    for version in ("3.11", "3.13"):
        add_python(machine / f"python{version}", version)
    write(machine / "make", f'echo "CI=$CI $*"\n[[ $* != *python{fails}* ]]\n')
    done = run(".ci/run", machine)
    asked = []
    for version in ("3.11", "3.13"):
        python = machine / f"python{version}"
        for part in ("test", "test-slow", "client-maps", "test-wheel", "docs"):
            if (part, version) != ("docs", "3.13"):  # the site does not depend on the Python
                assert f"\nCI=true {part} PYTHON={python} VENV=.venv-{version}\n" in done.stdout
                took = rf"=== make {part} on Python {version} took \d+ seconds\n"
                assert re.search(took, done.stdout)
                asked.append((part, version))
    assert done.returncode == (fails != "neither")
    told = [f"make {part} on Python {version} failed.\n" for part, version in asked]
    assert done.stderr == "".join(line for line in told if f"Python {fails} " in line)


def test_slow_tests_get_the_time_that_is_left_and_nothing_else_a_limit(machine):
    add_python(machine / "python3.11", "3.11")
    write(machine / "make", 'echo "$1 within: $PYTEST_ARGS"\n')
    said = re.findall(r"^(\S+) within: (.*)$", run(".ci/run", machine).stdout, re.MULTILINE)
    given = dict(said)
    left = int(given.pop("test-slow").removeprefix("--begin-within="))
    assert 70 * 60 - 60 < left <= 70 * 60
    assert set(given.values()) == {""}


@pytest.mark.parametrize(("seconds", "outcome"), [(0, "1 skipped"), (600, "1 passed")])
def test_what_would_begin_too_late_is_left_out_and_told(seconds, outcome):
    test = f"{__file__}::test_no_python_is_an_error"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", f"--begin-within={seconds}", test],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in done.stdout
    assert ("too slow for --begin-within" in done.stdout) == (seconds == 0)


def test_the_long_parts_are_what_make_test_leaves_out():
    rule = re.search(r"^test-all: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule.group(1).split() == ["test", "test-slow", "client-maps", "test-wheel", "docs"]
    looped = re.search(r"for target in (.*); do", (ROOT / ".ci" / "run").read_text())
    assert looped.group(1).split() == rule.group(1).split()[1:]
