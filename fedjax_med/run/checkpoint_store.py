"""Checkpoints on the disk, through Orbax: each is written whole and durably, or not at all.

A checkpoint is the folder ``ROUND`` with three items: the state, its identity (what it is of, with
checksums of all three), and the records of the rounds until then. It is written beside its place,
brought to the disk and renamed, so that neither a process that is killed nor a power cut leaves one
that is half there, nor touches those that were there before.
"""

import contextlib
import functools
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from fedjax_med import files
from fedjax_med.core.round import FedState
from fedjax_med.data.images import checksums
from fedjax_med.run.metrics_file import Record

_UNFINISHED = ".unfinished"  # what is being written or removed
_OTHER_BYTES = "the bytes differ from those that were saved"


class Restored(NamedTuple):
    """A checkpoint that was read and checked."""

    state: FedState
    identity: dict[str, Any]
    validation: dict[str, Any]
    records: list[Record] | None  # of all rounds until then; None: of a version that kept none


def digest(state: Any) -> str:
    """Compute SHA-256 over the bytes of every leaf of `state`, with place, shape and type."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        value = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()


def _json_digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@functools.cache
def _quiet() -> None:
    """Keep quiet about what Orbax reports beside the errors that it raises.

    When a write fails, it closes its event loop while tensorstore's other writes still report to
    it, and Python would print a traceback for each beside our one line.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook


class Store:
    """The folder of one run's checkpoints.

    Args:
        folder: is made when the first checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _quiet()
        # Each save and each retry is told through logging; what matters is raised.
        logging.getLogger("absl").setLevel(logging.CRITICAL)

    @functools.cached_property
    def _orbax(self) -> ocp.Checkpointer:
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:  # the first process alone keeps them; the others only compute
            alone = ocp.options.MultiprocessingOptions(0, {0}, "main")
        items = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
        )
        return ocp.Checkpointer(items, multiprocessing_options=alone)

    def close(self) -> None:
        """Let go of what Orbax holds."""
        if "_orbax" in self.__dict__:
            self._orbax.close()

    def rounds(self) -> list[int]:
        """List the rounds that have a checkpoint, oldest first."""
        if not self.folder.is_dir():
            return []
        names = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def write(
        self,
        state: FedState,
        identity: dict[str, Any],
        validation: dict[str, Any],
        records: Sequence[Record],
    ) -> None:
        """Write a checkpoint; when this returns it is on the disk.

        Args:
            state: NumPy arrays.
            identity: what it is of.
            validation: of its round.
            records: of all rounds until then.

        Raises:
            Exception: Whatever Orbax raises on a full disk, and on others.
        """
        told = {"records": list(records)}
        extra = identity | {
            "digest": digest(state),
            "validation": validation,
            "records": _json_digest(told),
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            identity=ocp.args.JsonSave(extra | {"checksum": _json_digest(extra)}),
            records=ocp.args.JsonSave(told),
        )
        number = str(int(state.round))
        with self._unfinished() as folder:
            self._orbax.save(folder / number, args=args)
            checksums.write(folder / number)
            files.sync_tree(folder / number)
            (folder / number).rename(self.folder / number)
            files.sync(self.folder)

    @contextlib.contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """Make a folder for what is being written or removed; it is gone afterwards."""
        self.clear()
        files.make_folder(self.folder / _UNFINISHED)
        try:
            yield self.folder / _UNFINISHED
        finally:
            self.clear()

    def item(self, number: int, **item: Any) -> Any:
        """Read one item of the checkpoint of round `number`, as NAME=ARGUMENTS of Orbax.

        Raises:
            Exception: It cannot be read.
        """
        (name,) = item
        found = self._orbax.restore(self.folder / str(number), args=ocp.args.Composite(**item))
        return found[name]

    def read_identity(self, number: int) -> dict[str, Any]:
        """Read what was saved beside the state of round `number`.

        Raises:
            Exception: It cannot be read, or is not what was saved.
        """
        saved = dict(self.item(number, identity=ocp.args.JsonRestore()))
        checksum = saved.pop("checksum", None)  # versions before saved none
        if checksum not in (None, _json_digest(saved)):
            raise ValueError(_OTHER_BYTES)
        return saved

    def read(self, number: int, template: FedState) -> Restored:
        """Read the checkpoint of round `number` and check that it is what was saved.

        Raises:
            Exception: It cannot be read, or is not what was saved.
        """
        extra = self.read_identity(number)
        state = self.item(number, state=ocp.args.StandardRestore(template))
        if digest(state) != extra.pop("digest"):
            raise ValueError(_OTHER_BYTES)
        records = self._records(number, extra.pop("records", ""))
        return Restored(state, extra, extra.pop("validation"), records)

    def _records(self, number: int, checksum: str) -> list[Record] | None:
        if not checksum:  # versions before saved none
            return None
        told = self.item(number, records=ocp.args.JsonRestore())
        if _json_digest(told) != checksum:
            raise ValueError(_OTHER_BYTES)
        records: list[Record] = told["records"]
        return records

    def damage(self, number: int) -> str | None:
        """Say what differs from the files that were written: "" if nothing does.

        Returns:
            None if that cannot be known, since a version before wrote no checksums.

        Raises:
            OSError: The files cannot be read.
        """
        try:
            known = checksums.check(self.folder / str(number), thorough=True)
        except checksums.DamagedError as error:
            return error.what
        return "" if known else None

    def remove(self, number: int) -> None:
        """Remove a checkpoint; an end in the midst of it leaves none that is half there.

        Raises:
            OSError: It cannot be removed.
        """
        with self._unfinished() as folder:
            (self.folder / str(number)).rename(folder / str(number))

    def clear(self) -> None:
        """Remove what killed runs left unfinished, those of older versions included."""
        for left in (self.folder / _UNFINISHED, *self.folder.glob("*.orbax-checkpoint-tmp*")):
            shutil.rmtree(left, ignore_errors=True)
