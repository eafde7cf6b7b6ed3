"""The wheel, installed without network and outside of the checkout, as the documentation says."""

import ast
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "fedjax_med"
MODULES = {file.relative_to(ROOT).as_posix() for file in PACKAGE.rglob("*.py")}
OTHER_FILES = {"fedjax_med/py.typed", "fedjax_med/data/corrections/isic9.csv"}
EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.py"))
# The commands of the page, those of the machine with network and those of the machine without.
PAGE = (ROOT / "docs" / "installation.md").read_text()
SECTION = PAGE.partition("## Without network")[2].partition("\n## ")[0]
WITH_NETWORK, WITHOUT_NETWORK = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
# As tests/support/tiny.py, with the public names alone.
CONFIG = """
from fedjax_med import Experiment, Spec

def get_config():
    experiment = Experiment(
        rounds=2,
        image_size=16,
        num_clients=3,
        dataset=Spec("lesions", {"train_size": 90, "test_size": 27}),
        model=Spec("cnn", {"widths": (4, 8), "groups": 2}),
    )
    experiment.client.batch_size = 8
    return experiment
"""
OWN = ("pip==", "fedjax-med==")  # what the lock does not hold
COMPONENT = """
import jax
import fedjax_med as fm

def build(*, scale: float = 1.0):
    def update(messages, client_info, state, key):
        print("the aggregator of the current folder")
        return jax.tree.map(lambda leaf: scale * leaf.mean(0), messages), state
    return fm.Aggregator(lambda message, num_clients, num_senders: (), update)
"""
ENTRY_POINT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "their_package"
version = "1.0"

[project.entry-points."fedjax_med.algorithms"]
their_average = "their_package.average:build"
"""
ALGORITHM = """
import fedjax_med as fm

def build(training, server_optimizer):
    print("the algorithm of an installed package")
    return fm.algorithms.fed_avg.build(training, server_optimizer)
"""
TYPED = """
import fedjax_med as fm
reveal_type(fm.Process.round)
fm.Simulation(3)
"""
# `python3` and `pip` are those of the version that runs the tests.
PATH = {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}


def run(*command, cwd, env=None):
    """Run a command; what it printed, after checking that it succeeded."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A folder as the machine without network gets it: `wheels/`, the lock and `dist/`."""
    copy = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.is_file() and not path.is_symlink():
            shutil.copy(path, copy)
    for folder in ("fedjax_med", "configs", "tests"):
        shutil.copytree(ROOT / folder, copy / folder)
    (copy / "build" / "lib" / "fedjax_med").mkdir(parents=True)
    (copy / "build" / "lib" / "fedjax_med" / "left_by_an_earlier_build.py").write_text("")
    # In this environment as it is, and not as a part of the `make` that runs the tests.
    make = f"env -u MAKEFLAGS make VENV={sys.prefix} --old-file={sys.prefix}/installed wheel"
    assert "\nmake wheel\n" in WITH_NETWORK
    run("sh", "-ec", WITH_NETWORK.replace("make wheel", make), cwd=copy, env=os.environ | PATH)
    machine = tmp_path_factory.mktemp("machine")
    for name in re.findall(r"`([\w./]+)`", re.search(r"^Copy (.*?) to", SECTION, re.MULTILINE)[1]):
        shutil.move(copy / name, machine)
    yield machine
    shutil.rmtree(machine)  # a gigabyte, of which pytest would keep three


@pytest.fixture(scope="module")
def dist(machine):
    return machine / "dist"


@pytest.fixture(scope="module")
def wheel(dist):
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(machine, env):
    """What the commands of the machine without network print; its packages are in `venv`."""
    return run("sh", "-ec", WITHOUT_NETWORK, cwd=machine, env=env | PATH)


@pytest.fixture(scope="module")
def python(machine, installed):
    return str(machine / "venv" / "bin" / "python")


@pytest.fixture(scope="module")
def program(python):
    return str(Path(python).parent / "fedjax-med")


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """A user's environment variables, without those of the tests."""
    home = str(tmp_path_factory.mktemp("home"))
    kept = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    cache = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    without = {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return {"PATH": os.environ["PATH"], "HOME": home, "MPLBACKEND": "Agg", **without, **cache}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's current folder."""
    here = tmp_path_factory.mktemp("project")
    (here / "tiny.py").write_text(CONFIG)
    (here / "my_package").mkdir()
    (here / "my_package" / "my_module.py").write_text(COMPONENT)
    return here


def names(archive):
    return {name for name in zipfile.ZipFile(archive).namelist() if not name.endswith("/")}


def test_the_wheel_holds_the_modules_and_nothing_else(wheel):
    found = {name for name in names(wheel) if ".dist-info/" not in name}
    assert found == MODULES | OTHER_FILES
    about = {name.partition(".dist-info/")[2] for name in names(wheel)} - {""}
    known = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    assert about == known | {"licenses/LICENSE"}


def test_the_source_archive_holds_the_modules_and_the_licence(dist):
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        found = {name.partition("/")[2] for name in opened.getnames()}
    assert {name for name in found if name.endswith(".py")} == MODULES
    assert {"LICENSE", "README.md", "CITATION.cff", "pyproject.toml"} | OTHER_FILES <= found


def imported():
    """What the package imports from others: (module, file, whether on load)."""
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        later = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, functions)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                dotted = [alias.name for alias in node.names]
            else:
                dotted = [node.module] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in dotted}:
                if top != "fedjax_med" and top not in sys.stdlib_module_names:
                    yield top, file.name, id(node) not in later


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_a_declared_dependency(wheel):
    (about,) = (name for name in names(wheel) if name.endswith("/METADATA"))
    fields = email.message_from_bytes(zipfile.ZipFile(wheel).read(about))
    needed = [Requirement(text) for text in fields.get_all("Requires-Dist")]
    always = {canonical(one.name) for one in needed if one.marker is None}
    optional = {canonical(one.name) for one in needed if one.marker is not None}
    known = metadata.packages_distributions()
    used = list(imported())
    assert {"jax", "PIL", "safetensors"} <= {module for module, _, _ in used}
    for module, file, on_load in used:
        owners = {canonical(name) for name in known.get(module, [module])}
        allowed = always if on_load else always | optional
        assert owners & allowed, f"{file} imports {module}, which is not declared"
    used_names = {canonical(name) for top, _, _ in used for name in known.get(top, [top])}
    assert always <= used_names | {"array-record"}, "declared, but not imported"


def test_the_commands_of_the_page_install_what_the_lock_has(python, installed, env, machine):
    assert "Trained 1 round" in installed
    assert "No broken requirements" in run(python, "-m", "pip", "check", cwd=machine, env=env)
    listed = run(python, "-m", "pip", "list", "--format=freeze", cwd=machine, env=env).splitlines()
    locked = (machine / "requirements.lock").read_text()
    others = {canonical(line) for line in listed if not canonical(line).startswith(OWN)}
    assert len(others) > 60
    pins = re.findall(r"^[\w.-]+==[^\s;\\]+", locked, re.MULTILINE)
    assert others <= {canonical(line) for line in pins}


def test_the_installed_package_is_the_wheel(python, env, folder):
    code = "import fedjax_med as fm; from importlib import metadata; print(fm.__file__)"
    code += "; print(fm.__version__, metadata.version('fedjax_med'))"
    file, version, declared = run(python, "-c", code, cwd=folder, env=env).split()
    assert Path(file).is_relative_to(Path(python).parent.parent)
    assert version == declared


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda file: file.stem)
def test_examples_run(example, python, env, folder):
    assert len([line for line in example.read_text().splitlines() if line]) <= 25
    run(python, str(shutil.copy(example, folder)), cwd=folder, env=env)


def test_the_command_trains_and_evaluates(program, env, folder):
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", run(program, "--version", cwd=folder, env=env))
    said = run(program, "train", "--config=tiny.py", "--workdir=run", cwd=folder, env=env)
    assert "Trained 2 rounds" in said
    said = run(program, "evaluate", "--workdir=run", cwd=folder, env=env)
    assert "27 examples of 9 classes" in said
    assert (folder / "run" / "evaluation.json").is_file()


def test_a_component_of_the_current_folder_trains(program, env, folder):
    component = "--config.aggregator.name=my_package.my_module:build"
    options = ("--config.aggregator.options.scale=0.5", "--config.rounds=1", "--workdir=own")
    said = run(program, "train", "--config=tiny.py", component, *options, cwd=folder, env=env)
    assert "the aggregator of the current folder" in said
    assert "Trained 1 round" in said


def test_a_component_of_an_installed_package_has_a_name(python, program, env, folder, tmp_path):
    (tmp_path / "pyproject.toml").write_text(ENTRY_POINT)
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "average.py").write_text(ALGORITHM)
    pip = (python, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, str(tmp_path), cwd=folder, env=env)
    named = ("--config.algorithm.name=their_average", "--config.rounds=1", "--workdir=theirs")
    said = run(program, "train", "--config=tiny.py", *named, cwd=folder, env=env)
    assert "the algorithm of an installed package" in said
    assert "Trained 1 round" in said


def test_type_checkers_see_the_types(python, env, folder):
    (folder / "typed.py").write_text(TYPED)
    command = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "typed.py")
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False
    ).stdout
    assert "import-untyped" not in done
    assert re.search(r'Revealed type is "def \(.*fedjax_med\.core\.algorithm\.FederatedState', done)
    assert 'Argument 1 to "Simulation" has incompatible type "int"; expected "Process"' in done
    assert "Found 1 error" in done
