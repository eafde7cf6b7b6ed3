"""Where a run goes on: the last sound checkpoint of its workdir, if it is of this experiment."""

from pathlib import Path
from typing import Any

from fedjax_med.checkpoint import Checkpoints
from fedjax_med.errors import UserError
from fedjax_med.federated import FedState
from fedjax_med.identity import refuse_other
from fedjax_med.workdir import read_workdir


def start_state(
    workdir: Path, checkpoints: Checkpoints, template: FedState, tag: dict[str, Any]
) -> FedState:
    """Where the run goes on: the last sound checkpoint, or `template`.

    Raises:
        UserError: The workdir holds another experiment, more rounds, or nothing that can be read.
    """
    saved = checkpoints.rounds()
    if not saved and (workdir / "experiment.json").exists() and _has_records(workdir):
        refuse_other(workdir, read_workdir(workdir), tag)
    restored = checkpoints.restore(lambda: template, tag, saved[::-1])
    if restored is None and saved:
        raise UserError(
            f"none of the checkpoints in {workdir} can be read, and nothing was removed: use "
            "the code version that wrote them, or choose another --workdir."
        )
    state = restored.state if restored else template
    if int(state.round) > tag["experiment"]["rounds"]:
        raise UserError(
            f"{workdir} has done {int(state.round)} rounds already, more than --config.rounds="
            f"{tag['experiment']['rounds']}: ask for at least as many, or choose another --workdir."
        )
    return state


def _has_records(workdir: Path) -> bool:
    file = workdir / "metrics.jsonl"
    return file.exists() and file.stat().st_size > 0
