"""Progress output of a run: a line and a JSON object each round, and TensorBoard files."""

import contextlib
import json
import math
import statistics
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from fedjax_med.core import faults
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.core.communication import Traffic
from fedjax_med.errors import UserError
from fedjax_med.files import replacing, sync, writing
from fedjax_med.run.metrics_file import Record, as_text, read_text, reconcile

ClientMetrics = dict[str, np.ndarray[Any, Any]]


_is_finite = jax.jit(faults.is_finite)


def check_finite(
    client_metrics: ClientMetrics, state: FederatedState, number: int, intact: int
) -> None:
    """Refuse a round in which a client's update or loss, or the new state, is not finite.

    Args:
        client_metrics: [S] each, of the round.
        state: after the round.
        number: of the round.
        intact: the round of the last good checkpoint; 0 if there is none.

    Raises:
        UserError: The message names the round and the first such client, or the part of the state.
    """
    kept = f"The checkpoint of round {intact} is intact" if intact else "No checkpoint was written"
    good = client_metrics["finite"] & np.isfinite(client_metrics["loss"])
    if not good.all():
        first = int(np.argmin(good))
        loss = _train_loss({name: values[first] for name, values in client_metrics.items()})
        raise UserError(
            f"round {number}: client {client_metrics['client'][first]} sent NaN or infinity (mean "
            f"loss {loss}). {kept}; a lower "
            "--config.client.optimizer.options.learning_rate usually helps, and "
            "--config.participation.on_invalid=skip goes on without such clients."
        )
    for name in ("server", "clients", "aggregator"):
        if not _is_finite(getattr(state, name)):
            raise UserError(
                f"round {number}: the update of the {name}'s state gave NaN or infinity, though "
                f"all clients sent numbers. {kept}; a lower "
                "--config.server_optimizer.options.learning_rate usually helps."
            )


def _train_loss(client_metrics: ClientMetrics) -> float:
    return float(client_metrics["loss"].sum() / max(client_metrics["count"].sum(), 1))


def record(
    number: int,
    client_metrics: ClientMetrics,
    validation: dict[str, Any],
    seconds: float,
    traffic: Traffic | None = None,
    spent: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Build one round's line of ``metrics.jsonl``.

    Args:
        number: of the round.
        client_metrics: [S] each, from `fedjax_med.core.process.Process.round`.
        validation: from `fedjax_med.evaluation.per_client.validation_metrics`, or {}.
        seconds: the duration of the round, validation included.
        traffic: of one client in one round; None if nothing crosses a network.
        spent: the privacy cost so far (`fedjax_med.privacy.plan.PrivacyPlan.spent`); None without
            a guarantee.
    """
    count = np.maximum(client_metrics["count"], 1)
    crossed = {}
    if traffic is not None:
        # Late and corrupted updates have crossed the network all the same.
        there = int(client_metrics.get("present", client_metrics["weight"] > 0).sum())
        crossed["bytes_up"], crossed["bytes_down"] = there * traffic.up, there * traffic.down
    own = {"counted": client_metrics["counted"].tolist()} if "counted" in client_metrics else {}
    return {
        "round": number,
        "train_loss": _train_loss(client_metrics),
        "validation": validation,
        "clients": {
            "client": client_metrics["client"].tolist(),
            "train_loss": (client_metrics["loss"] / count).tolist(),
            "train_accuracy": (client_metrics["correct"] / count).tolist(),
            "steps": client_metrics["steps"].tolist(),
            **own,
        },
        **crossed,
        **({"epsilon": spent["epsilon"]} if spent else {}),
        "seconds": seconds,
    }


def size_in_words(num_bytes: float) -> str:
    """Format bytes with three digits and a unit, such as 1.23 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


class MetricsWriter:
    """Writes one run's records, and prints a line for each.

    Args:
        workdir: of the run.
        start: the number of completed rounds.
        rounds: the number of rounds in all.
        saved: the records of the completed rounds in the checkpoint; None if it has none.
    """

    def __init__(
        self, workdir: Path, start: int, rounds: int, saved: list[Record] | None = None
    ) -> None:
        self._file = workdir / "metrics.jsonl"
        self._start, self._rounds = start, rounds
        with writing(workdir):
            self.records = list(reconcile(self._file, start, saved))
            self._rewrite()
            self._writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def _rewrite(self) -> None:
        """Replace the file as a whole, so that a kill loses nothing, and open it for appending."""
        with replacing(self._file) as temporary:
            temporary.write_text(as_text(self.records), "utf-8")
        self._stream = self._file.open("a", encoding="utf-8")

    def add(self, record: Record) -> None:
        """Write and print `record`, as built by the function of this name."""
        self.records.append(record)
        with writing(self._file):
            self._stream.write(json.dumps(record) + "\n")
            self._stream.flush()
            scalars = {"train/loss": record["train_loss"], "seconds": record["seconds"]}
            validation = record["validation"]
            scalars |= {
                f"validation/{name}": value
                for name, value in validation.items()
                if isinstance(value, int | float)
            }
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, record["round"])
            self._writer.flush()
        print(self._line(record), flush=True)

    def settle(self) -> None:
        """Sync all records to disk; if the file was changed meanwhile, rewrite it.

        Raises:
            UserError: It cannot be written.
        """
        with writing(self._file):
            try:
                intact = read_text(self._file) == as_text(self.records)
            except OSError:
                intact = False
            if intact:
                sync(self._file)
                return
            print(f"{self._file} was changed while the run went on: written anew.", flush=True)
            self._stream.close()
            self._rewrite()

    def _line(self, record: dict[str, Any]) -> str:
        done = record["round"]
        # The first round of a process also compiles, so it does not predict later ones.
        seconds = [one["seconds"] for one in self.records if one["round"] > self._start + 1]
        left = int(statistics.fmean(seconds or [0.0]) * (self._rounds - done))
        ahead = f"  left {left // 60}:{left % 60:02d}" if seconds or done == self._rounds else ""
        validation = record["validation"]
        scores = "".join(
            f"  {label} {validation[name]:.3f}"
            for label, name in (
                ("val loss", "loss"),
                ("acc", "accuracy"),
                ("balanced", "balanced_accuracy"),
            )
            if validation.get(name) is not None
        )
        if "bytes_up" in record:
            scores += f"  up {size_in_words(record['bytes_up'])}"
        if missing := record["clients"].get("counted", []).count(False):
            scores += f"  without {missing} of {len(record['clients']['counted'])}"
        if "epsilon" in record:
            epsilon = math.inf if record["epsilon"] is None else record["epsilon"]
            scores += f"  epsilon {epsilon:.2f}"
        width = len(str(self._rounds))
        return (
            f"round {done:>{width}}/{self._rounds}  loss {record['train_loss']:.3f}{scores}"
            f"  {record['seconds']:.1f} s{ahead}"
        )

    def close(self) -> None:
        """Flush and close the files."""
        for file in (self._stream, self._writer):
            with contextlib.suppress(OSError):  # a full disk, reported already
                file.close()
