"""The notebooks run, and are what their scripts say."""

import importlib.util
import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))
SPEC = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
notebooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(notebooks)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_script_of_a_notebook_runs(script, monkeypatch, tmp_path, capsys):
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pyplot, "show", lambda: None)  # without a screen it warns
    try:
        space = runpy.run_path(str(script))
        assert len(pyplot.gca().lines) == 4
    finally:
        pyplot.close("all")
    assert space["found"]["accuracy"] > 0.9
    assert "balanced_accuracy" in capsys.readouterr().out


def test_every_script_has_its_notebook_and_every_notebook_its_script():
    assert SCRIPTS
    folder = ROOT / "docs" / "notebooks"
    assert {path.stem for path in SCRIPTS} == {path.stem for path in folder.glob("*.ipynb")}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_has_the_cells_of_its_script_and_no_outputs(script):
    found = json.loads(script.with_suffix(".ipynb").read_text())
    assert found == notebooks.notebook(script.read_text()), "run python scripts/notebooks.py"
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 6
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_a_cell_is_what_stands_between_two_marks():
    found = notebooks.cells(
        "# head\n\n# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1\n\nb = 2\n"
    )
    assert [cell["cell_type"] for cell in found] == ["markdown", "code"]
    assert found[0]["source"] == ["# Title\n", "\n", "text"]
    assert found[1]["source"] == ["a = 1\n", "\n", "b = 2"]
