"""Tensors from a file of torch in its old format (before 1.6), without torch.

The file is a sequence of pickles followed by raw numbers: a magic number, the protocol's version,
the writer's sizes of types, the object with every storage by reference, the list of the storages'
keys; then for each key an int64 count and that many little-endian numbers. A pickle can call
whatever it can name, so this unpickler gives it three kinds of names and refuses the rest:
`OrderedDict`, what rebuilds a tensor (here a note of its place, looked up at the end), and the
kinds of storages (here the name of a NumPy type).
"""

import collections
import math
import os
import pickle
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.errors import UserError
from fedjax_med.files import open_regular, unreadable
from fedjax_med.types import Tensors

LIMIT = 2**32  # bytes: 250 times EfficientNet-Lite0
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int  # numbers in it


class _Tensor(NamedTuple):
    """Where a tensor lies in its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``; gradients and hooks are of no use here."""
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


# The one in Python: that in C takes memory for as many objects as a pickle of nine bytes may claim
# to remember, 64 GB.
class _Unpickler(pickle._Unpickler):
    """Builds dictionaries, lists, numbers, texts and `_Tensor`; refuses all else by its name."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new one each time: what a pickle sets on it is set on nothing that is used again.
            return lambda *place: _rebuild(*place)
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise UserError(
            f"it asks for {module}.{name}, which is no tensor, and nothing of it was run: expected "
            "a state_dict, as torch.save(model.state_dict(), FILE) writes"
        )

    def persistent_load(self, reference: Any, /) -> _Storage:
        _, dtype, key, _, count, *_ = reference
        if dtype not in _TYPES.values():
            raise UserError(f"expected numbers, got a storage of {dtype!r}")
        return _Storage(str(key), dtype, int(count))


def read(file: Path) -> Tensors:
    """The tensors of `file` by name.

    Raises:
        UserError: The file is of another format, is cut short, or asks for more than tensors.
    """
    try:
        with open_regular(file, LIMIT) as stream:
            return _read(stream)
    except UserError as error:
        raise UserError(f"{file} was not read: {error}.") from error
    except OSError as error:
        raise unreadable(file, error, "Give a file of weights.") from error
    except Exception as error:  # broken pickles raise whatever their bytes lead to
        raise UserError(
            f"{file} was not read: it is damaged or no file of torch's old format "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]})."
        ) from error


def _read(stream: IO[bytes]) -> Tensors:
    _check_format(stream)
    tensors, keys = _load(stream), _load(stream)
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()
    ):
        raise UserError("expected a state_dict, a dictionary of tensors by name, and it holds more")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers = {key: _numbers(stream, storages[key]) for key in keys}
    return {
        name: _placed(name, tensor, numbers[tensor.storage.key]) for name, tensor in tensors.items()
    }


def _load(stream: IO[bytes]) -> Any:
    return _Unpickler(stream).load()


def _check_format(stream: IO[bytes]) -> None:
    """Read what stands before the tensors."""
    again = "torch.save(state_dict, FILE, _use_new_zipfile_serialization=False)"
    if stream.read(2) == b"PK":
        raise UserError(
            "it is in torch's new format, a zip archive: where torch is installed, write it again "
            f"by {again}, or as safetensors"
        )
    stream.seek(0)
    magic = _load(stream)
    if magic != _MAGIC:
        raise UserError(f"expected a file of torch, written by {again}, or one of safetensors")
    protocol, system = _load(stream), _load(stream)
    if protocol != _PROTOCOL or not system["little_endian"]:
        raise UserError(
            f"expected protocol {_PROTOCOL} of a little-endian machine, got {protocol} and {system}"
        )


def _numbers(stream: IO[bytes], storage: _Storage) -> npt.NDArray[Any]:
    dtype = np.dtype(storage.dtype)
    count = int.from_bytes(stream.read(8), "little")
    size = count * dtype.itemsize
    left = os.fstat(stream.fileno()).st_size - stream.tell()  # asked first: it may claim anything
    if count != storage.size or size > left:
        raise UserError("it ends too early or is damaged: get it anew, and whole")
    return np.frombuffer(stream.read(size), dtype)


def _placed(name: str, tensor: _Tensor, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The tensor out of its storage's `numbers`, in its own memory and row by row."""
    _, offset, shape, strides = tensor
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    size = math.prod(shape)
    # An expanded tensor (stride 0) may claim any size, and a wrong one memory that is not its own.
    if min((0, offset, *shape, *strides)) < 0 or size > len(numbers) or last >= len(numbers):
        raise UserError(f"the tensor {name!r} does not lie inside of its storage")
    if not size:
        return np.zeros(shape, numbers.dtype)
    in_bytes = tuple(step * numbers.itemsize for step in strides)
    view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, in_bytes)
    return np.ascontiguousarray(view).reshape(shape)
