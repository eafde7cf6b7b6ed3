"""Names that others chose reach neither the terminal nor a table as they are."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.cli import terminal
from fedjax_med.evaluation import tables

HOSTILE = "\x1b[2J\x1b]0;owned\x07"
NAMES = [f"a{HOSTILE}", "b\nround 1 of 1", "=1+1", os.fsdecode(b"c\xff"), "\u202ed"]


@pytest.fixture
def folder(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "data"
    for name in NAMES:
        (root / "Train" / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / "Train" / name / f"{HOSTILE}{number}.png")
    (root / "Train" / NAMES[0] / f"bad{HOSTILE}.png").write_bytes(b"x")
    (root / "Train" / NAMES[0] / f"x.{HOSTILE}").touch()
    return root


def printable_lines(text):
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith("round 1") for line in text.splitlines())


def test_the_audit_and_the_partition_print_names_escaped(folder, tmp_path, capsys):
    given = [f"--data_dir={folder}", f"--cache_dir={tmp_path / 'cache'}", "--config.image_size=16"]
    assert cli.main(["audit", *given, f"--out={tmp_path / 'audit.json'}"]) == 0
    few = ["--config.num_clients=2", "--config.policy=drop", f"--out={tmp_path / 'out'}"]
    assert cli.main(["partition", *given, *few]) == 0
    told = capsys.readouterr()
    printable_lines(told.out)
    printable_lines(told.err)
    assert r"a\x1b[2J" in told.out
    classes = json.loads((tmp_path / "audit.json").read_text("utf-8"))["classes"]
    assert {NAMES[0], NAMES[1], NAMES[2]} < {one["name"] for one in classes}


def test_an_evaluation_is_printed_and_written_whatever_its_names_are(tmp_path):
    row = {"sensitivity": 1.0, "specificity": 1.0, "auroc": 1.0, "support": 1}
    row["sensitivity_at_90_specificity"] = 1.0
    clients = {"n": [1, 1], "accuracy": [1.0] * 2, "balanced_accuracy": [1.0] * 2}
    clients |= {"loss": [0.0] * 2, "absent_classes": [NAMES, NAMES]}
    evaluation = {
        **dict.fromkeys(tables.HEADLINES, 1.0),
        "intervals": dict.fromkeys(tables.HEADLINES, (0.0, 1.0)),
        "per_class": dict.fromkeys(NAMES, row),
        "absent_classes": [],
        "n": 5,
        "backdoors": [{"attack": "x", "n": 1, "success": 1.0, "target": NAMES[0]}],
        "clients": clients,
        "client_names": NAMES[:2],
    }
    printable_lines(tables.table(evaluation))
    tables.write_json(evaluation, tmp_path / "evaluation.json")
    assert tables.read_evaluation(tmp_path / "evaluation.json")["client_names"] == NAMES[:2]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_a_stream_of_any_encoding_is_written_to(encoding):
    raw = io.BytesIO()
    stream = terminal.Guarded(io.TextIOWrapper(raw, encoding, newline=""))
    print("µ ± 0.1 é … \ud800 \x1b[2J\n\r\tb", file=stream, flush=True)
    shown = raw.getvalue().decode(encoding)
    assert shown.endswith("\\ud800 \\x1b[2J\n\\r\\tb\n")
    assert ("±" in shown) == (encoding != "ascii")


@pytest.mark.parametrize("platforms", ["cuda"])
def test_devices_that_are_not_there_are_told_in_one_line(tmp_path, platforms):
    command = [sys.executable, "-m", "fedjax_med", "train", "--config.dataset.name=lesions"]
    environment = os.environ | {"JAX_PLATFORMS": platforms}
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}", f"--cache_dir={tmp_path}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fedjax-med")]
    assert f"JAX_PLATFORMS={platforms} asks for devices that JAX does not find" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
