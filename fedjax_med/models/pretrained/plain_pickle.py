"""Reads pickles of plain values without Python's unpickler, which runs any code a pickle names.

A pickle is a program for a stack machine. This machine knows the operations that torch writes for
tensors, and none that copies values: its time and memory are proportional to the bytes that it
reads, and these are bounded. But a value may contain another one twice, which contains another one
twice: if hashed or printed, thirty such pairs are a billion values. So dictionary keys must be
strings, and callers must check a value's type before anything else.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any

from fedjax_med.errors import UserError

_IGNORED = ("PROTO", "FRAME")
_PUSHED: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
} | dict.fromkeys(
    ("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE")
    + ("SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),  # the last two are written by Python 2
    lambda argument: argument,
)


class Bounded:
    """A stream that returns at most `limit` bytes in total."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._left, self._limit = stream, limit, limit

    def read(self, count: int, /) -> bytes:
        """Read `count` bytes, or fewer at the end of the stream.

        Raises:
            UserError: They would exceed the limit.
        """
        if count > self._left:
            raise UserError(f"expected at most {self._limit:,} bytes of names and shapes")
        return self._counted(self._stream.read(count))

    def readline(self) -> bytes:
        """Read a line, cut off at the limit."""
        return self._counted(self._stream.readline(self._left))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


class Machine:
    """Reads one pickle.

    Args:
        find: maps a module's name and a name in it, any strings, to the value that replaces them.
        refer: maps a persistent id, any value, to the value that replaces it.
        call: maps a callee and its arguments, any values, to the result.
    """

    def __init__(
        self,
        find: Callable[[str, str], Any],
        refer: Callable[[Any], Any],
        call: Callable[[Any, Any], Any],
    ) -> None:
        self._find, self._refer, self._call = find, refer, call
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self, stream: Bounded) -> Any:
        """Read the pickle at the current position of `stream` and return its value.

        Raises:
            UserError: It is too long, or has operations that plain values do not need.
            Exception: It is damaged; exceptions of many types.
        """
        # `genops` uses only these two methods of a file.
        for operation, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            self._do(operation.name, argument)
        return self._stack.pop()

    def _do(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self._stack.append(_PUSHED[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "GLOBAL":
            self._stack.append(self._find(*argument.split(" ", 1)))
        elif name == "STOP" or name in _IGNORED:
            pass
        elif name in _OPERATIONS:
            _OPERATIONS[name](self)
        else:
            raise UserError(f"it does what no tensor needs ({name}), and nothing of it was run")

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _tuple(self, size: int) -> None:
        self._stack.append(tuple(self._last(size)))

    def _marked_tuple(self) -> None:
        self._stack.append(tuple(self._marked()))

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise UserError("expected a list to append to")
        self._stack[-1].extend(values)

    def _set(self, pairs: list[Any]) -> None:
        keys, values = pairs[::2], pairs[1::2]
        if not isinstance(self._stack[-1], dict) or not all(isinstance(key, str) for key in keys):
            raise UserError("expected a dictionary with names as its keys")
        self._stack[-1].update(zip(keys, values, strict=True))

    def _global(self) -> None:
        module, name = self._last(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise UserError("expected texts for a name")
        self._stack.append(self._find(module, name))

    def _persistent(self) -> None:
        self._stack.append(self._refer(*self._last(1)))

    def _reduce(self) -> None:
        self._stack.append(self._call(*self._last(2)))

    def _marked(self) -> list[Any]:
        """Pop the values above the last mark from the stack."""
        return self._last(len(self._stack) - self._marks.pop())

    def _last(self, size: int) -> list[Any]:
        """Pop the last `size` values from the stack."""
        start = len(self._stack) - size
        if not 0 <= start <= len(self._stack):
            raise UserError("it takes what it never put there")
        values = self._stack[start:]
        del self._stack[start:]
        return values


_OPERATIONS: dict[str, Callable[[Machine], None]] = {
    "MARK": Machine._mark,
    "MEMOIZE": Machine._memoize,
    "TUPLE": Machine._marked_tuple,
    "TUPLE1": lambda machine: machine._tuple(1),
    "TUPLE2": lambda machine: machine._tuple(2),
    "TUPLE3": lambda machine: machine._tuple(3),
    "APPEND": lambda machine: machine._extend(machine._last(1)),
    "APPENDS": lambda machine: machine._extend(machine._marked()),
    "SETITEM": lambda machine: machine._set(machine._last(2)),
    "SETITEMS": lambda machine: machine._set(machine._marked()),
    "STACK_GLOBAL": Machine._global,
    "BINPERSID": Machine._persistent,
    "REDUCE": Machine._reduce,
    "BUILD": lambda machine: machine._last(1).clear(),  # drops attributes, which no tensor needs
}
