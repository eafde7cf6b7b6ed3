"""Times a federated round side by side with other frameworks, in alternation, and prints a table.

    python benchmarks/rounds.py [--peers=pytorch,pfl] [--pairs=5] [--images=256] [--json=FILE]

Each peer gets an environment of its own (made here, once); for each, it and fedjax_med run the same
work in turns, so that a noisy machine disturbs both alike. After the first round both must have
reached the same loss to 1e-3: they did the same work.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import app, flags

HERE = Path(__file__).parent
PEERS = ("pytorch", "pfl", "flower", "fedjax")

flags.DEFINE_list("peers", list(PEERS), "whom to compare with")
flags.DEFINE_string("workload", "cnn", "what to train: cnn")
flags.DEFINE_integer("pairs", 5, "timed rounds of each, in alternation", lower_bound=1)
flags.DEFINE_integer("images", 256, "images a client; a multiple of the batch size", lower_bound=32)
flags.DEFINE_string("json", "", "where to write the figures")
flags.DEFINE_string(
    "environments", "~/.cache/fedjax_med_benchmarks", "where the peers are installed"
)
FLAGS = flags.FLAGS


class Contender:
    """A process that trains a round when it is told to."""

    def __init__(self, python: str, script: Path, workload: Path, name: str) -> None:
        self._log = workload.with_name(f"{script.stem}.log").open("w+")
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [python, str(script), str(workload), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
            text=True,
        )
        self.loss = self.round()["loss"]
        self.first = time.perf_counter() - began  # start, compilation and one round

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._log.seek(0)
            raise SystemExit(f"{self._process.args} ended:\n{self._log.read()[-3000:]}")
        return dict(json.loads(answer))

    def round(self) -> dict[str, Any]:
        """Train one round: "seconds" and, after it, "loss"."""
        return self._ask("round")

    def quit(self) -> float:
        """End the process; the peak of its memory, in megabytes."""
        peak = float(self._ask("quit")["peak_megabytes"])
        self._process.wait()
        return peak


def environment(peer: str) -> str:
    """The Python of the peer's environment, made and filled if it is not there."""
    folder = Path(FLAGS.environments).expanduser() / peer
    python = folder / "bin" / "python"
    requirements = HERE / "peers" / f"{peer}.txt"
    done = folder / "installed"
    if not done.exists() or done.read_text() != requirements.read_text():
        print(f"Installing {peer} in {folder} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        subprocess.run(install, check=True)
        done.write_text(requirements.read_text())
    return str(python)


def compare(peer: str, workload: Path) -> dict[str, Any]:
    """Alternate rounds of the peer and of fedjax_med."""
    scripts = [HERE / "peers" / f"run_{name}.py" for name in (peer, "ours")]
    pythons = (environment(peer), sys.executable)
    them, us = (
        Contender(python, script, workload, FLAGS.workload)
        for python, script in zip(pythons, scripts, strict=True)
    )
    if abs(them.loss - us.loss) > 1e-3:
        raise SystemExit(f"{peer} did other work: loss {them.loss}, fedjax_med {us.loss}")
    seconds: list[tuple[float, float]] = [
        (them.round()["seconds"], us.round()["seconds"]) for _ in range(FLAGS.pairs)
    ]
    return {
        "peer": peer,
        "loss_after_first_round": [them.loss, us.loss],
        "seconds": [statistics.median(side) for side in zip(*seconds, strict=True)],
        "ratio": statistics.median(one / other for one, other in seconds),
        "ratios": [one / other for one, other in seconds],
        "seconds_to_first_round": [them.first, us.first],
        "peak_megabytes": [them.quit(), us.quit()],
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: one row a peer; "a / b" is the peer's figure and ours."""
    lines = [
        "| peer | seconds a round (peer / ours) | times as fast (lowest to highest pair) | "
        "first round done after | peak memory |",
        "|---|---|---|---|---|",
    ]
    for one in results:
        (them, us), low, high = one["seconds"], min(one["ratios"]), max(one["ratios"])
        first, memory = one["seconds_to_first_round"], one["peak_megabytes"]
        lines.append(
            f"| {one['peer']} | {them:.2f} / {us:.2f} | {one['ratio']:.2f} ({low:.2f} to "
            f"{high:.2f}) | {first[0]:.0f} / {first[1]:.0f} s | {memory[0]:.0f} / "
            f"{memory[1]:.0f} MB |"
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Write the workload, compare with each peer, print the table."""
    del arguments
    folder = Path(FLAGS.environments).expanduser() / "work"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{FLAGS.workload}.npz"
    write = "import sys, workloads; workloads.write(sys.argv[1], int(sys.argv[2]), sys.argv[3])"
    subprocess.run(
        [sys.executable, "-c", write, FLAGS.workload, str(FLAGS.images), str(file)],
        env=os.environ | {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"},
        check=True,
    )
    results = [compare(peer, file) for peer in FLAGS.peers]
    print(table(results))
    if FLAGS.json:
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        text = json.dumps({**about, "workload": FLAGS.workload, "results": results}, indent=2)
        Path(FLAGS.json).write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
