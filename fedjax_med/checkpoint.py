"""FedState to and from Orbax: atomic, asynchronous, checked, and refusing another experiment."""

import contextlib
import functools
import hashlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from fedjax_med.config import Checkpoint
from fedjax_med.errors import UserError
from fedjax_med.federated import FedState
from fedjax_med.identity import refuse_other

_METRIC = "balanced_accuracy"


class Restored(NamedTuple):
    """A checkpoint that was read and checked."""

    state: FedState
    identity: dict[str, Any]
    validation: dict[str, Any]


def digest(state: Any) -> str:
    """SHA-256 over the bytes of every leaf of `state`, with its place, shape and type."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        value = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()


def _reason(error: BaseException) -> str:
    """The innermost cause, in one line of bearable length."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@functools.cache
def _hide_late_writes() -> None:
    """Keep quiet about writes that end when the save they belong to has already failed.

    When a write fails, Orbax closes its event loop while tensorstore's other writes still report to
    it, and Python would print a traceback for each beside our one line.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook


class Checkpoints:
    """The checkpoints of one workdir: the last ones, and the best by validation."""

    def __init__(self, workdir: Path, options: Checkpoint, *, read_only: bool = False):
        self.folder = workdir.absolute() / "checkpoints"
        self._options, self._read_only = options, read_only
        self.last_good = 0  # the latest round that is on disk
        _hide_late_writes()
        # Orbax reports each save and each retry through logging; what matters is said here.
        logging.getLogger("absl").setLevel(logging.CRITICAL)

    @functools.cached_property
    def _manager(self) -> Any:
        """Orbax's manager; the folder is made only when it is needed."""
        options = self._options
        policies: list[Any] = [checkpoint_managers.LatestN(max(1, options.keep_last))]
        if options.keep_best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[_METRIC],
                    n=options.keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:  # the first process alone keeps them; the others only compute
            alone = ocp.options.MultiprocessingOptions(0, {0}, "main")
        with self._one_line("open"):
            if not self._read_only:
                self.folder.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(
                self.folder,
                item_names=("state", "identity"),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                    create=False,
                    read_only=self._read_only,
                    cleanup_tmp_directories=not self._read_only,
                    multiprocessing_options=alone,
                ),
            )

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

    def save(self, state: FedState, identity: dict[str, Any], validation: dict[str, Any]) -> None:
        """Start to save `state`; the write goes on in the background and is atomic.

        Raises:
            UserError: This or the save before it could not be written.
        """
        number = int(state.round)
        with self._one_line("save"):
            self._manager.wait_until_finished()
            self.last_good = self._manager.latest_step() or 0
            if number in self._manager.all_steps():
                return
            extra = {**identity, "digest": digest(state), "validation": validation}
            score = validation.get(_METRIC)
            self._manager.save(
                number,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), identity=ocp.args.JsonSave(extra)
                ),
                metrics=None if score is None else {_METRIC: float(score)},
            )

    def wait(self) -> None:
        """Return when all that was saved is on disk.

        Raises:
            UserError: A save could not be written.
        """
        with self._one_line("save"):
            self._manager.wait_until_finished()
            self.last_good = self._manager.latest_step() or 0

    def close(self) -> None:
        """Let go of the folder."""
        if "_manager" in self.__dict__:
            with contextlib.suppress(Exception):
                self._manager.close()

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def best_first(self) -> list[int]:
        """The rounds that have a checkpoint, by validation, best first; later before earlier."""
        scores = {}
        for number in self.rounds():
            try:
                scores[number] = float(self.read_identity(number)["validation"][_METRIC])
            except Exception:  # damaged, or saved without validation
                scores[number] = -1.0
        return sorted(scores, key=lambda number: (-scores[number], -number))

    def read_identity(self, number: int) -> dict[str, Any]:
        """What was saved beside the state of round `number`."""
        args = ocp.args.Composite(identity=ocp.args.JsonRestore())
        return dict(self._manager.restore(number, args=args)["identity"])

    def last_identity(self) -> dict[str, Any]:
        """What was saved beside the last checkpoint that can be read, or {}."""
        for number in self.rounds()[::-1] if self.folder.exists() else []:
            with contextlib.suppress(Exception):  # damaged: `restore` says so
                return self.read_identity(number)
        return {}

    def strategy(self) -> str:
        """The `map_clients` that computed the last checkpoint that can be read, or ''."""
        return str(self.last_identity().get("computed by", {}).get("map_clients", ""))

    def _read(self, number: int, template: FedState) -> Restored:
        extra = self.read_identity(number)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        state = self._manager.restore(number, args=args)["state"]
        if digest(state) != extra.pop("digest"):
            raise ValueError("the bytes differ from those that were saved")
        return Restored(state, extra, extra.pop("validation"))

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
                restored = self._read(number, template())
            except Exception as error:
                self._say_damaged(number, error, say)
                continue
            self.last_good = number
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
        """Remove the checkpoints of rounds after `number`, which a resumed run writes again."""
        for later in [step for step in self.rounds() if step > number]:
            with self._one_line("clear"):
                self._manager.delete(later)
