"""Holds the house in shape: imports go downward, pure rooms stay pure, files stay readable."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fedjax_med"

# A room imports only from lower layers. Inside a shelf (a folder), files may import each other.
LAYERS = [
    {"errors", "types", "messages", "interrupt", "__init__"},
    {"files", "retention", "plain_pickle"},
    {"checksums", "holding", "metrics_file"},
    {
        "config",
        "distributed",
        "images",
        "disk_images",
        "torch_file",
        "folding",
        "draw_lesion",
        "dermatoscope",
        "ops",
        "bootstrap",
        "shapley",
        "gaussian",
        "privacy",
    },
    {
        "shelves",
        "class_folders",
        "manifest",
        "prepared",
        "weights",
        "duplicates",
        "metrics",
        "workdir",
        "augment",
        "mixing",
        "local",
        "aggregate",
        "conditions",
        "mapping",
        "pieces",
        "robust",
        "dp_sgd",
    },
    {
        "overrides",
        "records",
        "audit",
        "partitions",
        "stack",
        "models",
        "by_client",
        "calibration",
        "frozen",
        "losses",
        "feedback",
    },
    {"datasets", "partition", "audit_report", "identity"}
    | {"attacks", "transforms", "reducers", "federated"},
    {"noise_key"},
    {"clusters", "heard", "averaging", "communication", "informed", "cohorts", "strategies"}
    | {"placement", "private"},
    {"algorithms", "feed"}
    | {
        "methods",
        "evaluate",
        "checkpoint_store",
        "report",
        "progress",
        "profiling",
        "clients",
        "ranges",
    },
    {"assemble", "checkpoint"},
    {"flags", "pictures", "predicted", "resume", "updates"},
    {"comparison", "announce", "replay"},
    {"contribution", "loop"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
PURE = {
    "ops",
    "folding",
    "models",
    "augment",
    "losses",
    "mixing",
    "local",
    "aggregate",
    "transforms",
    "reducers",
} | {
    "federated",
    "feedback",
    "gaussian",
    "dp_sgd",
    "communication",
    "attacks",
    "conditions",
    "mapping",
    "messages",
    "pieces",
    "robust",
    "informed",
    "clusters",
    "heard",
    "algorithms",
    "cohorts",
}
PURE_IMPORTS = {"jax", "flax", "optax", "fedjax_med", "collections", "typing", "functools", "math"}
PURE_IMPORTS |= {"fnmatch"}  # compares texts, no more
FILES = sorted(PACKAGE.rglob("*.py"))


def room(file):
    """The room or shelf that `file` belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file):
    """The modules that `file` imports when it is loaded, dotted."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "fedjax_med":
                yield from (f"fedjax_med.{alias.name}" for alias in node.names)
            else:
                yield node.module


def own(file):
    return {
        parts[1] if (parts := name.split("."))[1:] else "__init__"
        for name in imports(file)
        if name.split(".")[0] == "fedjax_med"
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_only_downward(file):
    here = room(file)
    assert here in LAYER, f"{here} has no layer: give it one in this test"
    for there in own(file):
        if (there == here and file.parent != PACKAGE) or there not in LAYER:
            continue  # a neighbour on the same shelf, or a name such as __version__
        assert LAYER[there] < LAYER[here], f"{file.name} imports {there}, which is not below it"


@pytest.mark.parametrize("file", [file for file in FILES if room(file) in PURE], ids=str)
def test_pure_rooms_import_neither_numpy_nor_anything_with_side_effects(file):
    assert {name.split(".")[0] for name in imports(file)} <= PURE_IMPORTS
    assert "absl" not in file.read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= 300
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                length = body[-1].end_lineno - body[0].lineno + 1
                assert length <= 45, f"{file.name}: {node.name} has {length} lines"


def test_there_are_no_rooms_for_odds_and_ends():
    names = {part.lower() for file in FILES for part in file.relative_to(PACKAGE).parts}
    assert not names & {"utils.py", "utils", "helpers.py", "misc.py", "common.py", "registry.py"}


def test_nothing_needs_tensorflow_or_torch():
    for file in FILES:
        assert not {name.split(".")[0] for name in imports(file)} & {"tensorflow", "torch"}
