"""Finds where a run resumes: the last sound checkpoint in its workdir, if of this experiment."""

from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med import files
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Checkpoint
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.damaged import put_aside
from fedjax_med.run.metrics_file import Record
from fedjax_med.run.noise_key import NAME as NOISE_KEY
from fedjax_med.run.provenance import refuse_other
from fedjax_med.run.workdir import read_workdir


class Start(NamedTuple):
    """The state from which a run begins or resumes."""

    state: FederatedState
    records: list[Record] | None  # of the completed rounds; None if no checkpoint has them


def find_start(
    workdir: Path,
    checkpoints: Checkpoints,
    template: FederatedState,
    tag: dict[str, Any],
    begin_anew: bool = False,
) -> Start:
    """Return the last sound checkpoint, or `template` if there is none.

    Args:
        workdir: of the run.
        checkpoints: of the workdir.
        template: the state before the first round.
        tag: the `identity` of the run.
        begin_anew: whether to begin at the first round if there are checkpoints but none can be
            read; they are put aside, not removed.

    Raises:
        UserError: The workdir holds another experiment, more rounds, or no readable checkpoint.
    """
    saved = checkpoints.rounds()
    if not saved and (workdir / "experiment.json").exists() and _has_records(workdir):
        refuse_other(workdir, read_workdir(workdir), tag)
        print(f"{workdir} has records of rounds and no checkpoint of any: beginning anew.")
    restored = checkpoints.restore(lambda: template, tag, checkpoints.latest_first)
    if restored is None and saved:
        if not begin_anew:
            raise UserError(_none_can_be_read(workdir, saved))
        refuse_other(workdir, read_workdir(workdir), tag)
        print(f"What was there is in {_put_aside(workdir)}; beginning anew.")
    if restored is None:
        return Start(template, None)
    done, wanted = int(restored.state.round), tag["experiment"]["rounds"]
    if done > wanted:
        raise UserError(
            f"{workdir} has done {done} rounds already, more than --config.rounds={wanted}: ask "
            "for at least as many, or choose another --workdir."
        )
    return Start(restored.state, restored.records)


def _none_can_be_read(workdir: Path, saved: list[int]) -> str:
    rounds = ", ".join(map(str, saved))
    return (
        f"none of the checkpoints in {workdir} can be read (round {rounds}; what is damaged is "
        "said above), and nothing was removed: restore them from a copy, choose another --workdir, "
        "or give --begin_anew to put them aside and train from the first round."
    )


def _put_aside(workdir: Path) -> Path:
    """Move a run's files to a new folder, which is returned; not its secret and experiment.json."""
    stays = (".lock", NOISE_KEY, "experiment.json")
    paths = (path for path in workdir.iterdir() if path.name not in stays)
    with files.writing(workdir):
        return put_aside(workdir, [path for path in paths if not path.name.startswith("damaged-")])


def _has_records(workdir: Path) -> bool:
    file = workdir / "metrics.jsonl"
    return file.exists() and file.stat().st_size > 0


def no_checkpoint(workdir: Path, done: int) -> str:
    """Say why there is no model to load; `done` is the latest round that has a checkpoint, or 0."""
    if done:
        return f"no checkpoint in {workdir} can be read: what is damaged is said above."
    return f"{workdir} has no checkpoint: run `fedjax-med train` first."


def rounds_done(workdir: Path) -> int:
    """Return the latest round of the run in `workdir` that has a checkpoint, or 0."""
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        return max(checkpoints.rounds(), default=0)
    finally:
        checkpoints.close()
