"""Imports go only downward, pure packages stay pure, files stay readable."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import layout  # noqa: E402

PACKAGE = ROOT / "fedjax_med"

# A package imports only from those in rows above it; its own files may import each other. Where a
# row has several packages none of them imports another, but in the rows marked so.
LAYERS = [
    ("errors", "files"),
    ("core",),
    ("ops", "client", "aggregators", "transforms", "attacks", "cohorts", "privacy"),
    ("algorithms", "models"),
    ("data",),
    ("execution", "evaluation"),
    ("experiment",),
    ("run",),
    ("contribution", "artifact", "report"),
    ("cli", "__main__", "__init__"),
]
NEIGHBOURS = {"errors", "files", "cli", "__main__", "__init__"}  # that may import each other
LAYER = {package: number for number, row in enumerate(LAYERS) for package in row}
# The rows of pure functions, and the files in them that read what others wrote or count in numpy.
PURE = {package for row in LAYERS[1:4] for package in row}
IMPURE = {
    "core/model.py",  # names the type of weights on the host, which is NumPy's
    "models/_sketch.py",  # draws its signs on the host, once
    "models/pretrained/exported.py",
    "models/pretrained/hub.py",
    "models/pretrained/plain_pickle.py",
    "models/pretrained/safetensors_file.py",
    "models/pretrained/torch_file.py",
    "models/pretrained/weights.py",
    "privacy/accounting.py",
    "privacy/noise.py",
}
PURE_IMPORTS = {"jax", "flax", "optax", "fedjax_med"}
PURE_IMPORTS |= {
    "collections",
    "dataclasses",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "inspect",
    "math",
    "typing",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name(file):
    return file.relative_to(PACKAGE).as_posix()


def package(file):
    """The package, or the file beside them, that `file` belongs to."""
    return name(file).split("/")[0].removesuffix(".py")


def imports(file):
    """The modules that `file` imports, wherever in it, dotted."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(file):
    """The packages of ours that `file` imports from."""
    parts = (dotted.split(".") for dotted in imports(file))
    return {part[1] for part in parts if part[0] == "fedjax_med" and part[1] in LAYER}


def test_every_package_has_its_row():
    assert {package(file) for file in FILES} == LAYER.keys()
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 24


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_go_only_downward(file):
    here = package(file)
    for there in own(file) - {here}:
        allowed = LAYER[there] < LAYER[here] or {here, there} <= NEIGHBOURS
        assert allowed, f"{name(file)} imports {there}, which is not below it"


def test_no_file_imports_itself_through_others():
    module = {f"fedjax_med.{name(f).removesuffix('.py').replace('/', '.')}": f for f in FILES}
    module |= {dotted.removesuffix(".__init__"): file for dotted, file in module.items()}

    def below(file):
        """The files that `file` imports when it is loaded, not inside of functions."""
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found = module.get(f"{node.module}.{alias.name}") or module.get(node.module)
                    # A package's face hands on what its files define, and they may name it.
                    if found and found.name != "__init__.py":
                        yield found

    done = set()

    def walk(file, way):
        assert file not in way, " -> ".join(map(name, [*way, file]))
        if file not in done:
            for other in below(file):
                walk(other, [*way, file])
            done.add(file)

    for file in FILES:
        walk(file, [])


@pytest.mark.parametrize("file", [file for file in FILES if package(file) in PURE], ids=name)
def test_pure_packages_import_neither_numpy_nor_anything_with_side_effects(file):
    if name(file) not in IMPURE:
        assert {dotted.split(".")[0] for dotted in imports(file)} <= PURE_IMPORTS


@pytest.mark.parametrize("file", FILES, ids=name)
def test_flags_are_read_on_the_command_line_only(file):
    assert package(file) == "cli" or not any(dotted.startswith("absl") for dotted in imports(file))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_only_the_upper_packages_know_an_experiment(file):
    if LAYER.get(package(file), 9) < LAYER["experiment"]:
        used = [dotted for dotted in imports(file) if dotted.endswith(".Experiment")]
        assert not used, f"{name(file)} is below experiment/ and takes an Experiment"


SHELVES = ("aggregators", "algorithms", "attacks", "cohorts", "models", "transforms")
COMPONENTS = {file.stem for shelf in SHELVES for file in (PACKAGE / shelf).glob("[a-z]*.py")} - {
    "median"
}  # also a statistic


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_package_below_the_experiment_asks_for_a_component_by_its_name(file):
    if LAYER.get(package(file), 9) >= LAYER["experiment"]:
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Compare):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            assert not COMPONENTS & {text for text in texts if isinstance(text, str)}


def is_print(node):
    """Whether `node` prints on the standard output."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    return node.func.id == "print" and "file" not in {option.arg for option in node.keywords}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_only_runs_and_commands_print(file):
    if package(file) not in {"cli", "run"}:
        assert not any(map(is_print, ast.walk(ast.parse(file.read_text()))))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_and_functions_stay_short(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= 300
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                length = body[-1].end_lineno - body[0].lineno + 1
                assert length <= 45, f"{file.name}: {node.name} has {length} lines"


def test_there_are_no_packages_for_odds_and_ends():
    names = {part.lower() for file in FILES for part in file.relative_to(PACKAGE).parts}
    assert not names & {"utils.py", "utils", "helpers.py", "misc.py", "common.py", "registry.py"}


def test_nothing_needs_tensorflow_or_torch():
    for file in FILES:
        assert not {dotted.split(".")[0] for dotted in imports(file)} & {"tensorflow", "torch"}


def test_the_layers_are_those_of_the_table_and_of_the_drawing():
    table = layout.rows(layout.PAGE.read_text())
    told = [{*row.packages} for row in reversed(table)]
    assert told == [{*row} - {"__init__"} for row in LAYERS]
    assert layout.OUT.read_text() == layout.draw(table)
    assert "http" not in layout.OUT.read_text().replace('"http://www.w3.org/2000/svg"', "")


def test_the_drawing_fits_its_page():
    boxes = [layout._band(row, 0) for row in layout.rows(layout.PAGE.read_text())]
    for drawn in boxes:
        left, width = (
            int(drawn[-2].partition(f' {of}="')[2].split('"')[0]) for of in ("x", "width")
        )
        assert left + width < layout._WIDTH - 12
