"""How long it takes from the command to the first round, with nothing prepared and a second time.

    python benchmarks/startup.py [--config=configs/isic9.py --data_dir=DATA] [--json=FILE]

Both trainings are the command itself, with an empty cache at first; the second one finds the images
prepared and the programs compiled. Further flags are those of `fedjax-med train`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from absl import flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import as_markdown
import machine
import paths

MARKS = (
    r"clients train on",
    r"round +1/",
)  # what it says when the data is there, and after a round

FLAGS = flags.FlagValues()  # its own: all others are the training's
flags.DEFINE_integer(
    "repeats",
    3,
    "starts with the caches filled; the median counts",
    lower_bound=1,
    flag_values=FLAGS,
)
paths.define_file("json", "", "where to write the figures", flag_values=FLAGS)


class Start(NamedTuple):
    """Seconds from the command on."""

    data: float  # images read, audited and divided; the model chosen
    first_round: float  # compiled, trained, validated


def start(arguments: list[str], folder: Path) -> Start:
    """Train until the first round is done, with the caches in `folder`.

    Raises:
        SystemExit: The command ended before; the message has what it said.
    """
    with tempfile.TemporaryDirectory() as workdir, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        flags_ = [*arguments, f"--workdir={workdir}", f"--cache_dir={folder}"]
        with subprocess.Popen(
            [sys.executable, "-m", "fedjax_med", "train", *flags_],
            env=os.environ
            | {"PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process:
            assert process.stdout
            seen: list[float] = []
            for line in process.stdout:
                if len(seen) < len(MARKS) and re.search(MARKS[len(seen)], line):
                    seen.append(time.perf_counter() - began)
                if len(seen) == len(MARKS):
                    process.terminate()  # it saves and ends by itself
        if len(seen) < len(MARKS):
            errors.seek(0)
            raise SystemExit(f"the training said nothing of its first round:\n{errors.read()}")
    return Start(*seen)


def measure(arguments: list[str], repeats: int) -> dict[str, list[float]]:
    """A start with empty caches and the median of some with full ones, as in `Start`."""
    with tempfile.TemporaryDirectory() as folder:
        first = start(arguments, Path(folder))
        again = sorted(
            (start(arguments, Path(folder)) for _ in range(repeats)),
            key=lambda one: one.first_round,
        )
    return {"first time": list(first), "later": list(again[repeats // 2])}


def main(arguments: list[str]) -> None:
    """Measure and print."""
    found = measure(arguments[1:] or ["--config=configs/lesions.py"], FLAGS.repeats)
    print(as_markdown.startup(found))
    if FLAGS.json:
        text = json.dumps({**machine.describe(), "seconds": found}, indent=2)
        Path(FLAGS.json).write_text(text + "\n")


if __name__ == "__main__":
    try:
        main(FLAGS(sys.argv, known_only=True))
    except flags.Error as error:
        sys.exit(str(error))
