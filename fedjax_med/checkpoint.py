"""The checkpoints of a run: saved in the background, kept by their order and score, read back.

Those that need not be kept are removed only when a newer one is on the disk.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fedjax_med import retention
from fedjax_med.checkpoint_store import Record, Restored, Store
from fedjax_med.config import Checkpoint
from fedjax_med.errors import UserError
from fedjax_med.federated import FedState
from fedjax_med.identity import refuse_other

_METRIC = "balanced_accuracy"
_SCHEDULED = "scheduled"  # the entry of the identity that says so


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line of bearable length."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


class Checkpoints:
    """The checkpoints of one workdir: the last ones, and the best by validation.

    Args:
        workdir: of the run; the folder ``checkpoints`` in it is made when it is needed.
        options: how many are kept.
        read_only: whether nothing is trained on, and nothing changed.
    """

    def __init__(self, workdir: Path, options: Checkpoint, *, read_only: bool = False):
        self.folder = workdir.absolute() / "checkpoints"
        self.last_good = 0  # the latest round that is on disk
        self._options, self._read_only = options, read_only
        self._store = Store(self.folder)
        self._writer = ThreadPoolExecutor(1, "checkpoints")  # a thread, from the first save on
        self._pending: Future[None] | None = None
        self._entries: dict[int, retention.Entry] = {}  # of what was saved or looked up

    @contextlib.contextmanager
    def _one_line(self, action: str) -> Iterator[None]:
        """Tell a full disk or a folder that can't be written in one line."""
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
                "disk is full or may not be written, free space or choose another --workdir, then "
                "give the same command again."
            ) from error

    def save(
        self,
        state: FedState,
        identity: dict[str, Any],
        validation: dict[str, Any],
        records: Sequence[Record] = (),
        *,
        scheduled: bool = True,
    ) -> None:
        """Start to save `state`; the write goes on in the background and is atomic.

        Args:
            state: after a round; its arrays may be donated as soon as this returns.
            identity: of the run.
            validation: of the round.
            records: of all rounds until then, as ``metrics.jsonl`` has them.
            scheduled: False where a signal stopped the run between two scheduled checkpoints. Such
                a checkpoint goes as soon as there is another, so that what is kept is the same as
                in a run never stopped.

        Raises:
            UserError: This or the save before it could not be written.
        """
        self.wait()
        with self._one_line("save"):
            if int(state.round) in self.rounds():
                return
            # Copied, since what `np.asarray` gives on a CPU is the buffer itself.
            copy = jax.tree.map(np.array, state)
            tag = identity | {_SCHEDULED: scheduled}
            self._pending = self._writer.submit(self._write, copy, tag, validation, list(records))

    def _write(self, state: FedState, *others: Any) -> None:
        """Write a checkpoint, then remove those that need not be kept any more."""
        self._store.write(state, *others)
        entries = {number: self._entry(number) for number in self.rounds()}
        kept = retention.kept(entries, self._options.keep_last, self._options.keep_best)
        for number in entries.keys() - kept:
            self._store.remove(number)

    def _entry(self, number: int) -> retention.Entry | None:
        """What decides whether a checkpoint is kept, by its own words; None if it is damaged."""
        if number not in self._entries:
            with contextlib.suppress(Exception):  # `restore` says so
                saved = self.read_identity(number)
                score = saved["validation"].get(_METRIC)
                self._entries[number] = retention.Entry(saved.get(_SCHEDULED, True), score)
        return self._entries.get(number)

    def wait(self) -> None:
        """Return when all that was saved is on disk.

        Raises:
            UserError: A save could not be written.
        """
        pending, self._pending = self._pending, None
        with self._one_line("save"):
            try:
                if pending is not None:
                    pending.result()
            finally:
                self.last_good = max(self.rounds(), default=0)

    def close(self) -> None:
        """Let go of the folder."""
        with contextlib.suppress(UserError):
            self.wait()
        self._writer.shutdown()
        if not self._read_only:
            self._store.clear()
        self._store.close()

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, oldest first."""
        return self._store.rounds()

    def best_first(self) -> list[int]:
        """The rounds that have a checkpoint, by validation, best first; later before earlier."""
        return retention.best_first({number: self._entry(number) for number in self.rounds()})

    def read_identity(self, number: int) -> dict[str, Any]:
        """What was saved beside the state of round `number`.

        Raises:
            Exception: It cannot be read, or is not what was saved.
        """
        return self._store.read_identity(number)

    def last_identity(self) -> dict[str, Any]:
        """What was saved beside the last checkpoint that can be read, or {}."""
        for number in self.rounds()[::-1]:
            with contextlib.suppress(Exception):  # damaged: `restore` says so
                return self.read_identity(number)
        return {}

    def strategy(self) -> str:
        """The `map_clients` that computed the last checkpoint that can be read, or ''."""
        return str(self.last_identity().get("computed by", {}).get("map_clients", ""))

    def restore(
        self,
        template: Callable[[], FedState],
        given: dict[str, Any] | None,
        order: list[int],
        say: Callable[[str], None] = print,
    ) -> Restored | None:
        """The first sound checkpoint in `order`, or None if there is none.

        Args:
            template: a state of the same structure, shapes and types.
            given: the `identity` of this run; None takes any experiment's state.
            order: rounds, the wanted one first.
            say: is told of damaged checkpoints.

        Raises:
            UserError: The checkpoint is of another experiment; the message names what differs.
        """
        for number in order:
            try:
                saved = self.read_identity(number)
            except Exception as error:
                self._say_damaged(number, error, say)
                continue
            if given is not None:
                self._refuse_other(number, saved, given, say)
            try:
                restored = self._store.read(number, template())
            except Exception as error:
                self._say_damaged(number, error, say)
                continue
            self.last_good = number
            restored.identity.pop(_SCHEDULED, None)
            return restored
        return None

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
            f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]
        ]
        if changed and not self._read_only:  # else nothing is trained on
            say(
                f"Since the checkpoint of round {number}: {', '.join(changed)}. The last bits may "
                "differ from a run that was never stopped."
            )

    def _say_damaged(self, number: int, error: Exception, say: Callable[[str], None]) -> None:
        say(f"The checkpoint of round {number} is damaged ({_reason(error)}); trying another.")

    def remove_after(self, number: int) -> None:
        """Remove the checkpoints of rounds after `number`, which a resumed run writes again.

        What a killed run left unfinished goes as well.
        """
        with self._one_line("clear"):
            for later in [step for step in self.rounds() if step > number]:
                self._store.remove(later)
                self._entries.pop(later, None)
            self._store.clear()
