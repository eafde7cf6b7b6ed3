"""Every example of the documentation runs, and every command that it shows parses."""

import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from fedjax_med.cli.main import main, parse

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^( *)```(\w*)(?: title=\"(.+?)\")?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    """The blocks of `language` in `page`: the file that each is to be saved as, or "", and text."""
    found = BLOCK.finditer(page.read_text())
    return [(of[3] or "", textwrap.dedent(of[4])) for of in found if of[2] == language]


SLOW = {"own_data.md", "own_model.md", "extending.md", "private_training.md"}
WITH_EXAMPLES = [
    pytest.param(page, id=name(page), marks=[pytest.mark.slow] * (page.name in SLOW))
    for page in PAGES
    if blocks(page, "python")
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder, from which Python imports; what is imported goes again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for module in set(sys.modules) - known:
        if module.partition(".")[0] == "my_package":
            del sys.modules[module]


# What the variables of a page hold at its end, so that an example learns what it claims to learn.
LEARNED = {
    "index.md": lambda found, **_: found["accuracy"] > 0.9,
    "own_data.md": lambda run, last, **_: (
        last.train_loss < 0.1 and run.evaluation["accuracy"] > 0.9
    ),
    "own_model.md": lambda params, fm, model, images, labels, **_: (
        fm.evaluate(model, params, images, labels)["accuracy"] > 0.8
    ),
    "extending.md": lambda printed, **_: min(map(float, printed.split())) > 0.8,
    "other_tasks.md": lambda errors, losses, found, **_: (
        errors.max() < 0.01 > losses[:, -1].max() and found["accuracy"] > 0.9
    ),
    "private_training.md": lambda fm, model, last, images, labels, **_: (
        fm.evaluate(model, last.state.server.params, images, labels)["accuracy"] > 0.8
    ),
}


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_the_examples_of_a_page_run_in_their_order(page, folder, capsys):
    space = {"__name__": "example"}
    for file, code in blocks(page, "python"):
        if file:
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_text(code)
        else:
            exec(compile(code, name(page), "exec"), space)
    space["printed"] = capsys.readouterr().out
    assert LEARNED[page.name](**space), space["printed"]


def test_the_tutorials_have_examples():
    pages = {page.values[0].name for page in WITH_EXAMPLES}
    tutorials = {"own_data.md", "own_model.md", "extending.md", "other_tasks.md"}
    assert pages >= {"index.md", "private_training.md", *tutorials}


def commands(page):
    """The commands of `page`, continued lines joined, those of make as what make runs."""
    for _, text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip(), comments=True)
            if words[:2] == ["make", "train"]:
                given = dict(word.split("=", 1) for word in words[2:])
                config = given.get("ARGS", "--config=configs/lesions.py")
                words = ["fedjax-med", "train", "--evaluate", *shlex.split(config)]
            if "fedjax-med" in words and words[:2] != ["docker", "build"]:
                yield words[words.index("fedjax-med") + 1 :]


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]
MEANT = {"$seed": "0", "$SLURM_JOB_ID": "0", "$JOB_COMPLETION_INDEX": "0"}


@pytest.fixture
def named(folder, monkeypatch):
    """The repository as current folder, and the packages that the pages tell to write."""
    for page in PAGES:
        for file, code in blocks(page, "python"):
            if file:
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).write_text(code)
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("page", "words"),
    [pytest.param(*one, id=f"{name(one[0])}: {' '.join(one[1])[:60]}") for one in COMMANDS],
)
def test_a_command_that_a_page_shows_parses(page, words, named):
    text = "\0".join(word for word in words if word != "FLAGS")
    for placeholder, value in MEANT.items():
        text = text.replace(placeholder, value)
    text = text.replace("isic9_pretrained.py:VARIANT", "isic9_pretrained.py:fast")
    text = re.sub(r"\.py:(VARIANT|NAME)\b", ".py:fed_adam", text)
    command, *arguments = text.split("\0")
    if command == "--version":
        assert main([command]) == 0
    else:
        parse(command, arguments)


def test_commands_of_most_pages_are_found():
    assert len(COMMANDS) > 30
    assert len({page for page, _ in COMMANDS}) > 8
