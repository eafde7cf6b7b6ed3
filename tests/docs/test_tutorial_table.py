"""The commands of the tutorial run as they stand there, on drawn images.

From `predict` on, the images, the table and the workdir that the model comes from are gone.
"""

import csv
import json
import shutil

import drawn_tables
import numpy as np
import pytest
from test_examples import ROOT, commands

from fedjax_med.cli.main import main
from fedjax_med.evaluation import tables

PAGE = ROOT / "docs" / "tutorial_table.md"
CITIES = ("Graz", "Lyon", "Porto", "Turin", "Uppsala")
# What makes drawn images of 16 pixels learn in seconds; the page has the defaults.
SMALL = [
    "--config.image_size=16",
    "--config.model.options.widths=8",
    "--config.model.options.groups=4",
    "--config.client.batch_size=8",
    "--config.client.optimizer.options.learning_rate=0.02",
]
ADDED = {"train": SMALL, "audit": ["--config.image_size=16"]}


def draw(folder):
    """Write all that the page speaks of."""
    table = drawn_tables.ham10000(folder / "HAM10000", lesions=90)
    text = table.read_text().replace(",dataset", ",site")
    for number, city in enumerate(CITIES):
        text = text.replace(f"site_{number}", city)
    table.write_text(text)
    rng = np.random.default_rng(1)
    drawn_tables.image(folder / "new.jpg", 75, rng)
    outside = {"keratosis": 0, "melanoma": 75, "naevus": 150, "scar": 150}
    for name, brightness in outside.items():
        for number in range(6):
            drawn_tables.image(folder / "other_hospital" / name / f"{number}.png", brightness, rng)
    for number, name in enumerate(drawn_tables.DX):
        for index in range(15):
            part = "Train" if index < 12 else "Test"
            path = folder / "new_data" / part / name / f"{index}.png"
            drawn_tables.image(path, 75 * number, rng)


def predicted(file):
    with file.open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row["predicted"]


@pytest.mark.slow
def test_the_commands_run_and_need_no_training_data_after_export(tmp_path, monkeypatch, capsys):
    draw(tmp_path)
    monkeypatch.chdir(tmp_path)
    every = list(commands(PAGE))
    assert len(every) <= 10
    for words in every:
        if words[0] == "predict" and (tmp_path / "HAM10000").exists():
            text = (tmp_path / "first.html").read_text()
            assert all(city in text for city in CITIES)
            assert "by the sites of the table" in text
            for gone in ("HAM10000", "runs", "cache/image_folder"):
                shutil.rmtree(tmp_path / gone)
        cache = [] if words[0] in ("report", "export") else [f"--cache_dir={tmp_path / 'cache'}"]
        assert main([*words, *ADDED.get(words[0], []), *cache]) == 0, capsys.readouterr()
    said = capsys.readouterr()
    assert "at 5 sites, 3 classes: bkl, mel, nv" in said.err
    assert "scar (6)" in said.out
    found = json.loads((tmp_path / "results" / "other" / "evaluation.json").read_text())
    assert found["n"] == 18
    assert found["accuracy"] > 0.8
    again = tables.read_evaluation(tmp_path / "runs" / "second" / "evaluation.json")
    assert again["accuracy"] > 0.8
    assert predicted(tmp_path / "new.csv") == predicted(tmp_path / "new_again.csv") == "mel"
