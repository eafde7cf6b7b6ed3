"""What the clients sent in each round, kept in the workdir for what is computed from it later."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.files import open_regular, replacing

_FOLDER = "updates"
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, OverflowError)
_LIMIT = 2**38  # bytes of a round: a thousand clients with a large model each


class Updates(NamedTuple):
    """One round's messages, as the clients made them, before all transforms."""

    message: Any  # [S, ...] in every leaf
    client: npt.NDArray[np.int32]  # [S], who sent it
    weight: npt.NDArray[np.float32]  # [S]; 0: does not count
    loss: npt.NDArray[np.float32]  # [S], `fedjax_med.aggregate.Senders.loss`
    group: npt.NDArray[np.int32]  # [S]


def _file(workdir: Path, number: int) -> Path:
    return workdir / _FOLDER / f"round_{number:06d}.npz"


def save(workdir: Path, number: int, client_metrics: dict[str, Any]) -> None:
    """Write the messages of round `number`.

    Args:
        workdir: of the run.
        number: of the round, from 1.
        client_metrics: what `fedjax_med.federated.run_round` gave, on the host, "message" included.

    Raises:
        UserError: They cannot be written.
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


def _like(stacked: npt.NDArray[Any], one: Any) -> npt.NDArray[Any]:
    """`stacked` [S, ...], if it is of the shape and type of `one` client's."""
    if stacked.dtype.kind == "V":  # as NumPy keeps bfloat16
        stacked = stacked.view(one.dtype)
    if stacked.shape[1:] != one.shape or stacked.dtype != one.dtype:
        raise ValueError(f"expected {one.dtype} {one.shape}, got {stacked.dtype} {stacked.shape}")
    return stacked


def load(workdir: Path, number: int, message: Any) -> Updates:
    """The messages of round `number`.

    Args:
        workdir: of the run.
        number: of the round, from 1.
        message: of one client, or its shapes and types.

    Raises:
        UserError: There are none, or they are damaged.
    """
    file = _file(workdir, number)
    try:
        with open_regular(file, _LIMIT) as stream, np.load(stream) as arrays:
            leaves, structure = jax.tree.flatten(message)
            stacked = [_like(arrays[f"leaf_{i}"], leaf) for i, leaf in enumerate(leaves)]
            client, weight = arrays["client"], arrays["weight"]
            loss = arrays.get("loss_before", np.zeros_like(weight))
            group = arrays.get("group", np.zeros_like(client))
    except FileNotFoundError:
        raise UserError(
            f"{file} is not there: the updates of every round are kept by training with "
            "--config.keep_updates=True."
        ) from None
    except (*_DAMAGE, OSError, ValueError, KeyError, EOFError, NotImplementedError) as error:
        raise UserError(f"{file} is damaged ({type(error).__name__}): train again.") from error
    return Updates(jax.tree.unflatten(structure, stacked), client, weight, loss, group)
