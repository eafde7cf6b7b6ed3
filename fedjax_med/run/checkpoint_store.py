"""Checkpoints on disk, through Orbax: each is written whole and durably, or not at all.

A checkpoint is the folder ``ROUND`` with three items: the state, its identity (the experiment it
belongs to, with checksums of all three), and the records of the rounds so far. It is written to a
temporary folder, synced to disk and renamed, so that neither a killed process nor a power cut
leaves a partial checkpoint or touches the earlier ones.
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
from fedjax_med.core.algorithm import FederatedState
from fedjax_med.data.images import checksums
from fedjax_med.errors import UserError
from fedjax_med.run.metrics_file import Record

_UNFINISHED = ".unfinished"  # folder for checkpoints being written or removed
_OTHER_BYTES = "the bytes differ from those that were saved"


class Restored(NamedTuple):
    """A checkpoint that was read and verified."""

    state: FederatedState
    identity: dict[str, Any]
    validation: dict[str, Any]
    records: list[Record] | None  # of all rounds so far; None: an older version kept none


class _Saved(NamedTuple):
    """A `FederatedState` with the field names of checkpoints since the first version."""

    round: Any
    server: Any
    clients: Any
    reducer: Any


def digest(state: Any) -> str:
    """Compute SHA-256 over the bytes of every leaf of `state`, with path, shape and dtype."""
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
    """Silence what Orbax reports besides the errors that it raises.

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
        folder: created when the first checkpoint is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _quiet()
        # Orbax logs each save and each retry; failures are raised anyway.
        logging.getLogger("absl").setLevel(logging.CRITICAL)

    @functools.cached_property
    def _orbax(self) -> ocp.Checkpointer:
        alone = ocp.options.MultiprocessingOptions()
        if jax.process_count() > 1:  # only the first process keeps checkpoints; the others compute
            alone = ocp.options.MultiprocessingOptions(0, {0}, "main")
        items = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
        )
        return ocp.Checkpointer(items, multiprocessing_options=alone)

    def close(self) -> None:
        """Release the resources that Orbax holds."""
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
        state: FederatedState,
        identity: dict[str, Any],
        validation: dict[str, Any],
        records: Sequence[Record],
    ) -> None:
        """Write a checkpoint; it is on disk when this returns.

        Args:
            state: NumPy arrays.
            identity: the experiment that it belongs to.
            validation: metrics of its round.
            records: of all rounds so far.

        Raises:
            Exception: Whatever Orbax raises, on a full disk or otherwise.
        """
        content = {"records": list(records)}
        extra = identity | {
            "digest": digest(_Saved(*state)),
            "validation": validation,
            "records": _json_digest(content),
        }
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_Saved(*state)),
            identity=ocp.args.JsonSave(extra | {"checksum": _json_digest(extra)}),
            records=ocp.args.JsonSave(content),
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
        """Make a folder for a checkpoint being written or removed, and delete it afterwards."""
        self.clear()
        files.make_folder(self.folder / _UNFINISHED)
        try:
            yield self.folder / _UNFINISHED
        finally:
            self.clear()

    def item(self, number: int, **item: Any) -> Any:
        """Read one item of the checkpoint of round `number`, given as NAME=ARGUMENTS of Orbax.

        Raises:
            Exception: It cannot be read.
        """
        (name,) = item
        found = self._orbax.restore(self.folder / str(number), args=ocp.args.Composite(**item))
        return found[name]

    def read_identity(self, number: int) -> dict[str, Any]:
        """Read the identity saved beside the state of round `number`.

        Raises:
            Exception: It cannot be read, or differs from the one saved.
        """
        try:
            checksums.check(self.folder / str(number), part="identity/")
        except checksums.DamagedError as error:
            raise ValueError(error.what) from None
        saved = dict(self.item(number, identity=ocp.args.JsonRestore()))
        checksum = saved.pop("checksum", None)  # older versions saved none
        if checksum not in (None, _json_digest(saved)):
            raise ValueError(_OTHER_BYTES)
        return saved

    def read(self, number: int, template: FederatedState) -> Restored:
        """Read the checkpoint of round `number` and verify its checksums.

        Raises:
            Exception: It cannot be read, or differs from the one saved.
        """
        extra = self.read_identity(number)
        saved = self.item(number, state=ocp.args.StandardRestore(_Saved(*template)))
        if digest(saved) != extra.pop("digest"):
            self._refuse_wide(number, template)
            raise ValueError(_OTHER_BYTES)
        records = self._records(number, extra.pop("records", ""))
        return Restored(FederatedState(*saved), extra, extra.pop("validation"), records)

    def read_raw(self, number: int) -> dict[str, Any]:
        """Read the state of round `number` as nested dictionaries of NumPy arrays, by field names.

        Raises:
            Exception: It cannot be read, or its files differ from those that were written.
        """
        try:
            checksums.check(self.folder / str(number), thorough=True)
        except checksums.DamagedError as error:
            raise ValueError(error.what) from None
        raw: dict[str, Any] = self.item(number, state=ocp.args.StandardRestore())
        return raw

    def _refuse_wide(self, number: int, template: FederatedState) -> None:
        """Refuse a state of 64-bit numbers, which Orbax reads as those of `template`.

        Raises:
            UserError: It is one: not damaged, and yet of no use.
        """
        raw = self.item(number, state=ocp.args.StandardRestore())
        kinds = [{str(leaf.dtype) for leaf in jax.tree.leaves(one)} for one in (raw, template)]
        wide = sorted(kind for kind in kinds[0] - kinds[1] if kind.endswith(("64", "128")))
        if wide:
            raise UserError(
                f"the checkpoint of round {number} holds numbers of {', '.join(wide)}: its run was "
                "computed with JAX_ENABLE_X64, by which every number differs. Runs have 32 bits "
                "now: begin anew in another --workdir, or go on with the version that wrote it."
            )

    def _records(self, number: int, checksum: str) -> list[Record] | None:
        if not checksum:  # older versions saved none
            return None
        content = self.item(number, records=ocp.args.JsonRestore())
        if _json_digest(content) != checksum:
            raise ValueError(_OTHER_BYTES)
        records: list[Record] = content["records"]
        return records

    def damage(self, number: int) -> str | None:
        """Describe how the files differ from those written: "" if they do not.

        Returns:
            None if this is unknown, since an older version wrote no checksums.

        Raises:
            OSError: The files cannot be read.
        """
        try:
            known = checksums.check(self.folder / str(number), thorough=True)
        except checksums.DamagedError as error:
            return error.what
        return "" if known else None

    def remove(self, number: int) -> None:
        """Remove a checkpoint; an interruption leaves no partial one.

        Raises:
            OSError: It cannot be removed.
        """
        with self._unfinished() as folder:
            (self.folder / str(number)).rename(folder / str(number))

    def clear(self) -> None:
        """Remove the unfinished files of killed runs, those of older versions included."""
        for left in (self.folder / _UNFINISHED, *self.folder.glob("*.orbax-checkpoint-tmp*")):
            shutil.rmtree(left, ignore_errors=True)
