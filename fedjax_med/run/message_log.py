"""Keeps the clients' messages of each round in the workdir, for later computations."""

import functools
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from fedjax_med.data.memory import memory_bytes
from fedjax_med.errors import UserError
from fedjax_med.files import open_regular, replacing

_FOLDER = "updates"
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, OverflowError)
_LIMIT = 2**38  # bytes of a round, memory permitting: a thousand clients with a large model


class Updates(NamedTuple):
    """One round's messages as the clients made them, before all transforms."""

    message: Any  # [S, ...] in every leaf
    client: npt.NDArray[np.int32]  # [S], the sender
    weight: npt.NDArray[np.float32]  # [S]; 0: does not count
    loss: npt.NDArray[np.float32]  # [S], `fedjax_med.core.aggregation.ClientInfo.loss`
    group: npt.NDArray[np.int32]  # [S], the cluster


def _file(workdir: Path, number: int) -> Path:
    return workdir / _FOLDER / f"round_{number:06d}.npz"


def save(workdir: Path, number: int, client_metrics: dict[str, Any]) -> None:
    """Write the messages of round `number`.

    Args:
        workdir: of the run.
        number: of the round, from 1.
        client_metrics: from `fedjax_med.core.process.Process.round`, on the host, with "message".

    Raises:
        UserError: The file cannot be written.
    """
    leaves = jax.tree.leaves(client_metrics["message"])
    others: dict[str, Any] = {
        name: np.asarray(client_metrics[name])
        for name in ("client", "weight", "loss_before", "group")
        if name in client_metrics
    }
    others |= {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
    with replacing(_file(workdir, number)) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **others)


def _read(
    archive: zipfile.ZipFile, name: str, size: int | None, shape: tuple[int, ...], dtype: Any
) -> npt.NDArray[Any]:
    """Read the array `name` [S, *shape]; allocate memory only if its header and size are right.

    Raises:
        ValueError: Its type, shape or size is wrong; S must be `size`, if given.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError("expected arrays that are not compressed")
    dtype = np.dtype(dtype)
    with archive.open(info) as stream:
        found, kind = _header(stream)
        rows = size if size is not None else (found or (0,))[0]
        if found != (rows, *shape) or kind != _kept(dtype):
            raise ValueError(f"expected {dtype} {(rows, *shape)}, got {kind} {found}")
        if math.prod(found) * kind.itemsize != info.file_size - stream.tell():
            raise ValueError("its size is another one than its header says")
    with archive.open(info) as stream:
        array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array.view(dtype)


def _kept(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that NumPy writes; for bfloat16 only the number of bytes."""
    return np.dtype(f"V{dtype.itemsize}") if dtype.kind == "V" else dtype


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and dtype that an array's header claims; version 1 is 64 kB at most."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("expected a header of version 1")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype


def load(workdir: Path, number: int, message: Any) -> Updates:
    """Load the messages of round `number`.

    Args:
        workdir: of the run.
        number: of the round, from 1.
        message: of one client, or its shapes and dtypes.

    Raises:
        UserError: The messages are missing or damaged.
    """
    file = _file(workdir, number)
    try:
        limit = int(min(_LIMIT, memory_bytes()))
        with open_regular(file, limit) as stream, zipfile.ZipFile(stream) as archive:
            client = _read(archive, "client", None, (), np.int32)
            one = functools.partial(_read, archive, size=len(client))
            leaves, structure = jax.tree.flatten(message)
            stacked = [
                one(name=f"leaf_{i}", shape=leaf.shape, dtype=leaf.dtype)
                for i, leaf in enumerate(leaves)
            ]
            weight = one(name="weight", shape=(), dtype=np.float32)
            more = {
                name: one(name=name, shape=(), dtype=dtype)
                for name, dtype in (("loss_before", np.float32), ("group", np.int32))
                if f"{name}.npy" in archive.namelist()
            }
    except FileNotFoundError:
        raise UserError(
            f"{file} is not there: the updates of every round are kept by training with "
            "--config.keep_updates=True."
        ) from None
    except (*_DAMAGE, OSError, ValueError, KeyError, EOFError, NotImplementedError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}): train again.") from error
    loss = more.get("loss_before", np.zeros_like(weight))
    group = more.get("group", np.zeros_like(client))
    return Updates(jax.tree.unflatten(structure, stacked), client, weight, loss, group)
