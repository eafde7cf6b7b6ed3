"""Where a run goes on: the last sound checkpoint of its workdir, if it is of this experiment."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med import files
from fedjax_med.checkpoint import Checkpoints
from fedjax_med.checkpoint_store import Record
from fedjax_med.errors import UserError
from fedjax_med.federated import FedState
from fedjax_med.identity import refuse_other
from fedjax_med.workdir import read_workdir


class Start(NamedTuple):
    """Where a run begins or goes on."""

    state: FedState
    records: list[Record] | None  # of the rounds that are done; None if no checkpoint has them


def find_start(
    workdir: Path,
    checkpoints: Checkpoints,
    template: FedState,
    tag: dict[str, Any],
    begin_anew: bool = False,
) -> Start:
    """Give the last sound checkpoint, or `template` where there is none.

    Args:
        workdir: of the run.
        checkpoints: its own.
        template: the state before the first round.
        tag: the `identity` of the run.
        begin_anew: whether to begin at the first round if there are checkpoints and none can be
            read; those are put aside, not removed.

    Raises:
        UserError: The workdir holds another experiment, more rounds, or nothing that can be read.
    """
    saved = checkpoints.rounds()
    if not saved and (workdir / "experiment.json").exists() and _has_records(workdir):
        refuse_other(workdir, read_workdir(workdir), tag)
        print(f"{workdir} has records of rounds and no checkpoint of any: beginning anew.")
    restored = checkpoints.restore(lambda: template, tag, saved[::-1])
    if restored is None and saved:
        if not begin_anew:
            raise UserError(_none_can_be_read(workdir, saved))
        print(f"What could not be read is in {_put_aside(checkpoints)}; beginning anew.")
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


def _put_aside(checkpoints: Checkpoints) -> Path:
    """Rename the folder of checkpoints; its new name."""
    folder = checkpoints.folder
    names = (folder.with_name(f"{folder.name}.damaged-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    with files.writing(folder):
        folder.rename(aside)
        files.sync(folder.parent)
    return aside


def _has_records(workdir: Path) -> bool:
    file = workdir / "metrics.jsonl"
    return file.exists() and file.stat().st_size > 0
