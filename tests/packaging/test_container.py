"""The container file, as far as it can be checked without a container engine."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TEXT = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
LINES = [line.split(maxsplit=1) for line in TEXT.splitlines() if line and line[0] != "#"]
KNOWN = {"FROM", "WORKDIR", "RUN", "ENV", "COPY", "USER", "ENTRYPOINT", "CMD"}


def arguments(instruction):
    return [rest for name, rest in LINES if name == instruction]


def copied():
    """The files and folders of the checkout that it copies."""
    for rest in arguments("COPY"):
        if "--from=" not in rest:
            yield from rest.split()[:-1]


def test_it_is_made_of_known_instructions():
    assert {name for name, _ in LINES} <= KNOWN
    assert LINES[0][0] == "FROM"


def test_its_base_is_one_pinned_image():
    bases = {rest.split()[0] for rest in arguments("FROM")}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.13\.\d+-slim-\w+", bases.pop())


def test_what_it_copies_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert kept == set(copied())
    for path in kept:
        assert (ROOT / path).exists(), path


def test_packages_are_installed_with_their_hashes():
    for rest in arguments("RUN"):
        for command in re.findall(r"pip (?:install|wheel)[^&]*", rest):
            assert "--require-hashes" in command or "--no-index" in command


def test_the_command_runs_without_the_rights_of_root():
    assert len(arguments("USER")) == 1
    user = arguments("USER")[0]
    assert f" {user}" in next(rest for rest in arguments("RUN") if rest.startswith("useradd"))
    last = [name for name, _ in LINES]
    assert last.index("USER") > max(i for i, name in enumerate(last) if name in ("RUN", "COPY"))
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["fedjax-med"]
