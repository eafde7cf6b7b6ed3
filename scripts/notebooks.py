"""Writes docs/notebooks/*.ipynb from their pairs *.py, without outputs.

Run: python scripts/notebooks.py

The pairs are in jupytext's percent format, so that jupytext, too, keeps both the same.
"""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"


def cells(script: str) -> list[dict[str, Any]]:
    """Give the cells of a script in the percent format; its head is none."""
    found = []
    _, *parts = re.split(r"^# %%", script, flags=re.MULTILINE)
    for number, part in enumerate(parts):
        kind, _, text = part.partition("\n")
        text = text.strip("\n")
        cell: dict[str, Any] = {"cell_type": "code", "id": f"cell-{number}", "metadata": {}}
        if kind.strip() == "[markdown]":
            cell["cell_type"] = "markdown"
            text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        else:
            cell |= {"execution_count": None, "outputs": []}
        found.append(cell | {"source": text.splitlines(keepends=True)})
    return found


def notebook(script: str) -> dict[str, Any]:
    """Give the notebook, without outputs, of a script in the percent format."""
    metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return {"cells": cells(script), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.py")):
        made = notebook(path.read_text())
        path.with_suffix(".ipynb").write_text(json.dumps(made, indent=1) + "\n")
        print(f"Written: {path.with_suffix('.ipynb')}")
