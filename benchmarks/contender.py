"""A framework's process, seen from the driver, and the environment that it runs in."""

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class TooSlowError(SystemExit):
    """A round took longer than the limit; who does not catch it ends with its message."""


class Contender:
    """A process that trains a round when it is told to; the first one on construction.

    Args:
        python: the interpreter of its environment.
        peer: its name; ``peers/run_PEER.py`` is the script.
        workload: the file; its name is the workload's.
        limit: seconds that a round may take, the first with its start and compilation.

    Raises:
        TooSlowError: The first round was not finished in time; the process is gone.
    """

    def __init__(self, python: str, peer: str, workload: Path, limit: float) -> None:
        self._log = workload.with_name(f"{workload.stem}_{peer}.log").open("w")
        self._peer, self._limit = peer, limit
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [python, str(HERE / "peers" / f"run_{peer}.py"), str(workload), workload.stem],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": str(HERE.parent)},
            text=True,
        )
        self.device = self.round()["device"]
        self.first = time.perf_counter() - began  # start, compilation and one round
        self.loss = float(self._ask("loss")["loss"])

    def _ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], self._limit)[0]:
            self.kill()
            raise TooSlowError(f"{self._peer}: no round within {self._limit:.0f} s; raise --limit.")
        answer = self._process.stdout.readline()
        if not answer:
            said = Path(self._log.name).read_text()
            self._close()
            raise SystemExit(f"{self._process.args} ended:\n{said[-3000:]}")
        return dict(json.loads(answer))

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.__exit__(None, None, None)  # waits, and closes the pipes
        self._log.close()

    def round(self) -> dict[str, Any]:
        """Train one round: the "seconds" that it took and the "device"."""
        return self._ask("round")

    def turn(self, rounds: int) -> float:
        """Train `rounds` rounds; the seconds that one took, on average."""
        return sum(self.round()["seconds"] for _ in range(rounds)) / rounds

    def quit(self) -> float:
        """End the process; the peak of its memory, in megabytes."""
        peak = float(self._ask("quit")["peak_megabytes"])
        self._close()
        return peak


def environment(peer: str, folder: Path) -> str:
    """The Python of the peer's environment in `folder`, made and filled if it is not there."""
    folder = folder / peer
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


def versions(python: str) -> dict[str, str]:
    """The packages that matter in that environment."""
    asked = [python, str(HERE / "machine.py")]
    answer = subprocess.run(asked, check=True, capture_output=True, text=True)
    return dict(json.loads(answer.stdout))
