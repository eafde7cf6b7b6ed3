"""Checkpoints of a run: saved in the background, kept by age and score, restored.

Checkpoints that need not be kept are removed only when a newer one is on disk.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_med.core.algorithm import FederatedState
from fedjax_med.data.images import checksums
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Checkpoint
from fedjax_med.run import retention
from fedjax_med.run.checkpoint_store import Restored, Store
from fedjax_med.run.damaged import put_aside
from fedjax_med.run.metrics_file import Record
from fedjax_med.run.provenance import refuse_other

_METRIC = "balanced_accuracy"
_SCHEDULED = "scheduled"  # the identity's entry for whether a checkpoint was scheduled
_TRIES = 10  # to restore while a training run keeps removing checkpoints


def _reason(error: BaseException) -> str:
    """Describe the innermost cause in one line of at most 300 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


class Checkpoints:
    """The checkpoints of one workdir: the last ones, and the best by validation.

    Args:
        workdir: of the run; its folder ``checkpoints`` is created when needed.
        options: how often checkpoints are scheduled, and how many are kept.
        read_only: whether the run is only read, neither trained nor changed.
    """

    def __init__(self, workdir: Path, options: Checkpoint, *, read_only: bool = False):
        self.folder = workdir.absolute() / "checkpoints"
        self.last_good = 0  # the latest round known to be on disk
        self._options, self._read_only = options, read_only
        self._store = Store(self.folder)
        self._writer = ThreadPoolExecutor(1, "checkpoints")  # starts its thread at the first save
        self._pending: Future[None] | None = None
        self._entries: dict[int, retention.Entry] = {}  # cache of the entries looked up

    @contextlib.contextmanager
    def _one_line(self, action: str) -> Iterator[None]:
        """Report a failure, such as a full disk or an unwritable folder, in one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            kept = (
                f"the checkpoint of round {self.last_good} is intact"
                if self.last_good
                else "no checkpoint was written before"
            )
            raise UserError(
                f"cannot {action} checkpoints in {self.folder} ({_reason(error)}); {kept}. If the "
                "disk is full or may not be written, make room or choose another --workdir, then "
                "give the same command again."
            ) from error

    def save(
        self,
        state: FederatedState,
        identity: dict[str, Any],
        validation: dict[str, Any],
        records: Sequence[Record] = (),
    ) -> None:
        """Start saving `state` in the background; the write is atomic.

        Args:
            state: after a round; its arrays may be donated as soon as this returns.
            identity: of the run.
            validation: metrics of the round.
            records: of all rounds so far, as in ``metrics.jsonl``.

        Raises:
            UserError: This save or the one before it failed.
        """
        self.wait()
        with self._one_line("save"):
            if int(state.round) in self.rounds():
                return
            # Copied, since on a CPU `np.asarray` would return the buffer itself.
            copy = jax.tree.map(np.array, state)
            tag = identity | {_SCHEDULED: self._is_scheduled(int(state.round))}
            self._pending = self._writer.submit(self._write, copy, tag, validation, list(records))

    def _is_scheduled(self, number: int) -> bool:
        return number % self._options.every == 0

    def _write(self, state: FederatedState, *others: Any) -> None:
        self._store.write(state, *others)
        self._prune()

    def _prune(self) -> None:
        """Remove the checkpoints that need not be kept."""
        entries = {number: self._entry(number) for number in self.rounds()}
        kept = retention.kept(entries, self._options.keep_last, self._options.keep_best)
        for number in entries.keys() - kept:
            self._store.remove(number)

    def _entry(self, number: int) -> retention.Entry | None:
        """Return the retention entry that a checkpoint itself records; None if it is damaged."""
        if number not in self._entries:
            with contextlib.suppress(Exception):  # `restore` reports damage
                saved = self.read_identity(number)
                scheduled = saved.get(_SCHEDULED, True) or self._is_scheduled(number)
                score = saved["validation"].get(_METRIC)
                self._entries[number] = retention.Entry(scheduled, score)
        return self._entries.get(number)

    def wait(self) -> None:
        """Wait until everything saved is on disk.

        Raises:
            UserError: A save failed.
        """
        pending, self._pending = self._pending, None
        with self._one_line("save"):
            try:
                if pending is not None:
                    pending.result()
            finally:
                self.last_good = max(self.rounds(), default=0)

    def close(self) -> None:
        """Wait for the last save, ignoring its failure, and release the folder."""
        with contextlib.suppress(UserError):
            self.wait()
        self._writer.shutdown()
        self._store.close()

    def rounds(self) -> list[int]:
        """List the rounds that have a checkpoint, oldest first."""
        return self._store.rounds()

    def latest_first(self) -> list[int]:
        """List the rounds that have a checkpoint, newest first."""
        return self.rounds()[::-1]

    def best_first(self, last: int = 0) -> list[int]:
        """List the rounds that have a checkpoint, best first by validation, later before earlier.

        Args:
            last: the last round of the run, a candidate even if it was not scheduled.
        """
        entries = {number: self._entry(number) for number in self.rounds()}
        return retention.best_first(entries, last)

    def read_identity(self, number: int) -> dict[str, Any]:
        """Read the identity saved beside the state of round `number`.

        Raises:
            Exception: It cannot be read, or differs from the one saved.
        """
        return self._store.read_identity(number)

    def last_identity(self) -> dict[str, Any]:
        """Return the identity saved beside the last undamaged checkpoint, or {}."""
        for number in self.latest_first():
            with contextlib.suppress(Exception):  # damaged: `restore` reports it
                if not self._store.damage(number):
                    return self.read_identity(number)
        return {}

    def client_map(self) -> str:
        """Return the `map_clients` that computed the last undamaged checkpoint, or ''."""
        return str(self.last_identity().get("computed by", {}).get("map_clients", ""))

    def restore(
        self,
        template: Callable[[], FederatedState],
        given: dict[str, Any] | None,
        order: Callable[[], list[int]],
        say: Callable[[str], None] = print,
    ) -> Restored | None:
        """Restore the first sound checkpoint in `order`; return None if there is none.

        Args:
            template: builds a state of the same structure, shapes and dtypes.
            given: the `identity` of this run; None accepts any experiment's state.
            order: lists the rounds, the preferred one first; called again if a run training in
                the same workdir has removed one meanwhile.
            say: receives messages about damaged checkpoints.

        Raises:
            UserError: The checkpoint is of another experiment (the message names the differences),
                or it is undamaged and yet cannot be read.
        """
        for _ in range(_TRIES):
            wanted = order()
            for number in wanted:
                if restored := self._restore(number, template, given, say):
                    return restored
            if set(wanted) <= set(self.rounds()):
                break
        return None

    def _restore(
        self,
        number: int,
        template: Callable[[], FederatedState],
        given: dict[str, Any] | None,
        say: Callable[[str], None],
    ) -> Restored | None:
        try:
            saved = self.read_identity(number)
            if given is not None:
                self._refuse_other(number, saved, given, say)
            restored = self._store.read(number, template())
        except UserError:
            raise
        except Exception as error:
            if not self._is_damaged(number):
                raise self._unread(number, error) from error
            if number in self.rounds():  # else a run training here has removed it
                say(
                    f"The checkpoint of round {number} is damaged ({_reason(error)}); trying "
                    "another."
                )
            return None
        self.last_good = number
        restored.identity.pop(_SCHEDULED, None)
        return restored

    def _is_damaged(self, number: int) -> bool:
        """Return whether the files of an unreadable checkpoint differ from those written."""
        with self._one_line("read"):
            return self._store.damage(number) != ""  # None, unknown, counts as damage

    def _unread(self, number: int, error: Exception) -> Exception:
        """Build the error for an unreadable but undamaged checkpoint: the fault is elsewhere."""
        if isinstance(error, (MemoryError, *checksums.FAULTS)):
            return error
        return UserError(
            f"the checkpoint of round {number} in {self.folder} cannot be read, though its files "
            f"are those that were written ({_reason(error)}): try again, or use the code version "
            "that wrote it. Nothing was removed."
        )

    def _refuse_other(
        self,
        number: int,
        saved: dict[str, Any],
        given: dict[str, Any],
        say: Callable[[str], None],
    ) -> None:
        refuse_other(self.folder.parent, saved, given)
        before, now = saved.get("computed by", {}), given["computed by"]
        changed = [
            f"{key} {before.get(key)} -> {now.get(key)}"
            for key in dict.fromkeys([*now, *before])
            if before.get(key) != now.get(key)
        ]
        if changed and not self._read_only:  # read-only runs are not trained further
            own = any(one.startswith("component ") for one in changed)
            what = "With a changed component everything" if own else "The last bits"
            say(
                f"Since the checkpoint of round {number}: {', '.join(changed)}. {what} may differ "
                "from a run that was never stopped."
            )

    def remove_after(self, number: int) -> None:
        """Remove the checkpoints after round `number`, which a resumed run writes again.

        They could not be restored. Those known to be damaged are removed, the others put aside.
        Unfinished files of a killed run, and checkpoints it did not get to remove, go as well.
        """
        with self._one_line("clear"):
            for later in [step for step in self.rounds() if step > number]:
                if self._store.damage(later):
                    self._store.remove(later)
                else:
                    put_aside(self.folder.parent, [self.folder / str(later)])
                self._entries.pop(later, None)
            self._store.clear()
            self._prune()
