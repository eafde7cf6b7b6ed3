"""Reads tensors from a torch file in the old format (before 1.6), without torch.

The file is a sequence of pickles followed by raw numbers: a magic number, the protocol version, the
writer's type sizes, the object with every storage by reference, the list of the storages' keys;
then for each key an int64 count and that many little-endian numbers. A pickle can call whatever it
can name, so these are read by `plain_pickle`, which allows only three kinds of names:
`OrderedDict`, the function that rebuilds a tensor (here it records the tensor's position, for a
look-up at the end), and the storage types (here NumPy dtype names).
"""

import math
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedjax_med.core.model import Tensors
from fedjax_med.errors import UserError, printable
from fedjax_med.files import open_regular, unreadable
from fedjax_med.models.pretrained.plain_pickle import Bounded, Machine

LIMIT = 2**32  # bytes of a file: 250 times EfficientNet-Lite0
_LIMIT = 2**20  # bytes of its pickles: enough for names and shapes of 10,000 tensors
_DIMENSIONS = 32
# Tensors may share storage, as tied layers do; but each is copied, so their total is bounded.
_SHARED = 4  # limit of all tensors together, as a multiple of the file's size
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
    size: int  # in elements


class _Tensor(NamedTuple):
    """The position of a tensor in its storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild(arguments: Any) -> _Tensor:
    """Replace ``torch._utils._rebuild_tensor_v2``; gradients and hooks are ignored."""
    if not (isinstance(arguments, tuple) and 4 <= len(arguments) <= _DIMENSIONS):
        raise UserError("expected a tensor's storage, offset, shape and strides")
    storage, offset, shape, strides = arguments[:4]
    if not (isinstance(storage, _Storage) and _numbers_of_64_bits((offset,))):
        raise UserError("expected a tensor's storage and offset")
    if not (_numbers_of_64_bits(shape) and _numbers_of_64_bits(strides)):
        raise UserError(f"expected at most {_DIMENSIONS} whole numbers as a tensor's shape")
    return _Tensor(storage, offset, shape, strides)


def _numbers_of_64_bits(values: Any) -> bool:
    if not (isinstance(values, tuple) and len(values) <= _DIMENSIONS):
        return False
    return all(isinstance(value, int) and abs(value) < 2**63 for value in values)


def _ordered(arguments: Any) -> dict[str, Any]:
    """Replace ``collections.OrderedDict``, which is created empty and filled afterwards."""
    if not (isinstance(arguments, tuple) and not arguments):
        raise UserError("expected an empty OrderedDict, to be filled")
    return {}


def _find(module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
        return _ordered
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
        return _rebuild
    if module == "torch" and name in _TYPES:
        return _TYPES[name]
    raise UserError(
        f"it asks for {printable(module)}.{printable(name)}, which is no tensor, and nothing of it "
        "was run: expected a state_dict, as torch.save(model.state_dict(), FILE) writes"
    )


def _call(function: Any, arguments: Any) -> Any:
    if function is _ordered:
        return _ordered(arguments)
    if function is _rebuild:
        return _rebuild(arguments)
    raise UserError("it calls what makes no tensor, and nothing of it was run")


def _refer(reference: Any) -> _Storage:
    if not (isinstance(reference, tuple) and len(reference) >= 5):
        raise UserError("it is damaged: expected a storage's type, key and size")
    _, dtype, key, _, count = reference[:5]
    if not (isinstance(dtype, str) and dtype in _TYPES.values()):
        raise UserError(f"expected numbers, got a storage of {_printable(dtype)}")
    if not (isinstance(key, str) and _numbers_of_64_bits((count,))):
        raise UserError("expected a storage's key and size")
    return _Storage(key, dtype, count)


def _printable(value: Any) -> str:
    """Describe `value`, which may be anything, for an error message."""
    if isinstance(value, str):
        return printable(repr(value))
    small = isinstance(value, int) and abs(value) < 2**63
    return str(value) if small else f"a {type(value).__name__}"


def read(file: Path) -> Tensors:
    """Read the tensors of `file`, by name.

    Raises:
        UserError: The file has another format, is cut short, or contains more than tensors.
    """
    try:
        with open_regular(file, LIMIT) as stream:
            return _read(stream)
    except UserError as error:
        raise UserError(f"{file} was not read: {error}.") from error
    except OSError as error:
        raise unreadable(file, error, "Give a file of weights.") from error
    except (ImportError, MemoryError):  # not the file's fault
        raise
    except Exception as error:  # damaged pickles raise exceptions of any type
        raise UserError(
            f"{file} was not read: it is damaged or no file of torch's old format "
            f"({type(error).__name__}: {printable(str(error))})."
        ) from error


def _read(stream: IO[bytes]) -> Tensors:
    pickles = Bounded(stream, _LIMIT)
    _check_format(stream, pickles)
    tensors, keys = _load(pickles), _load(pickles)
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, _Tensor) for tensor in tensors.values()
    ):
        raise UserError("expected a state_dict, a dictionary of tensors by name, and it holds more")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError("it is damaged: expected a list of the storages' keys")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    numbers = {key: _numbers(stream, storages[key]) for key in keys}
    return _all_placed(tensors, numbers, _SHARED * os.fstat(stream.fileno()).st_size)


def _load(stream: Bounded) -> Any:
    return Machine(_find, _refer, _call).load(stream)


def _check_format(stream: IO[bytes], pickles: Bounded) -> None:
    """Check the file's header, before the tensors."""
    again = "torch.save(state_dict, FILE, _use_new_zipfile_serialization=False)"
    if stream.read(2) == b"PK":
        raise UserError(
            "it is in torch's new format, a zip archive: where torch is installed, write it again "
            f"by {again}, or as safetensors"
        )
    stream.seek(0)
    magic = _load(pickles)
    if not (isinstance(magic, int) and magic == _MAGIC):
        raise UserError(f"expected a file of torch, written by {again}, or one of safetensors")
    protocol, system = _load(pickles), _load(pickles)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if not (isinstance(protocol, int) and protocol == _PROTOCOL and little):
        raise UserError(
            f"expected protocol {_PROTOCOL} of a little-endian machine, got protocol "
            f"{_printable(protocol)} of {'one' if little else 'another'}"
        )


def _all_placed(
    tensors: dict[str, _Tensor], numbers: dict[str, npt.NDArray[Any]], limit: int
) -> Tensors:
    """Copy the tensors from their storages; refuse more than `limit` bytes in total."""
    placed: Tensors = {}
    for name, tensor in tensors.items():
        placed[name] = _placed(name, tensor, numbers[tensor.storage.key])
        limit -= placed[name].nbytes
        if limit < 0:
            raise UserError(
                "its tensors, of which many share numbers, would take more than "
                f"{_SHARED} times the file's size"
            )
    return placed


def _numbers(stream: IO[bytes], storage: _Storage) -> npt.NDArray[Any]:
    dtype = np.dtype(storage.dtype)
    count = int.from_bytes(stream.read(8), "little")
    size = count * dtype.itemsize
    left = os.fstat(stream.fileno()).st_size - stream.tell()  # first: `count` may be anything
    if count != storage.size or size > left:
        raise UserError("it ends too early or is damaged: get it anew, and whole")
    return np.frombuffer(stream.read(size), dtype)


def _placed(name: str, tensor: _Tensor, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy a tensor from its storage's `numbers` into a row-major array of its own."""
    _, offset, shape, strides = tensor
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    size = math.prod(shape)
    # An expanded tensor (stride 0) may have any size; wrong strides would read foreign memory.
    if min((0, offset, *shape, *strides)) < 0 or size > len(numbers) or last >= len(numbers):
        raise UserError(f"the tensor {_printable(name)} does not lie inside of its storage")
    if not size:
        return np.zeros(shape, numbers.dtype)
    in_bytes = tuple(step * numbers.itemsize for step in strides)
    view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, in_bytes)
    return np.ascontiguousarray(view).reshape(shape)
