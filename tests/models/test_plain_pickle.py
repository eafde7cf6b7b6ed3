"""What hostile pickles make of a file of weights: one line, soon, and nothing else."""

import faulthandler
import struct
import tracemalloc

import pytest
from test_weights import MAGIC, PROTOCOL, SYSTEM, pickled

from fedjax_med.errors import UserError
from fedjax_med.models.pretrained import torch_file

HEAD = b"".join(map(pickled, (MAGIC, PROTOCOL, SYSTEM)))
START = b"\x80\x02"
ORDERED, REBUILD = b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"
# A pair of pairs of pairs, and so on: 2**200 values in some 1,000 bytes.
DOUBLED = b"K\x01" + b"2\x86" * 200
DOUBLED_BY_MEMO = b"K\x01" + b"q\x00h\x00\x86" * 200
DOUBLED_LISTS = b"K\x01" + b"q\x00](h\x00h\x00e" * 200
TEXTS = b"X" + struct.pack("<I", 1000) + b"x" * 1000
NUMBERS = {"doubled": DOUBLED_BY_MEMO, "lists": DOUBLED_LISTS, "text": TEXTS}
NUMBERS |= {"long": b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20}


def storage(dtype=b"X\x03\0\0\0<f4", key=b"X\x01\0\0\x000", count=b"K\x06"):
    return b"(X\x07\0\0\0storage" + dtype + key + b"X\x03\0\0\0cpu" + count + b"NtQ"


def placed(offset=b"K\0", shape=b"K\x06\x85", strides=b"K\x01\x85", **of_storage):
    return REBUILD + b"(" + storage(**of_storage) + offset + shape + strides + b"t" + b"R"


def state(value):
    return HEAD + START + b"}X\x01\0\0\0a" + value + b"s." + pickled(["0"])


def places(value):
    """A file for each place where a value may stand."""
    yield "magic", START + value + b"."
    yield "protocol", pickled(MAGIC) + START + value + b"." + pickled(SYSTEM)
    yield "system", pickled(MAGIC) + pickled(PROTOCOL) + START + value + b"."
    for pairs in (b"s", b"u"):
        first = b"(" if pairs == b"u" else b""
        yield f"key {pairs}", HEAD + START + b"}" + first + value + b"N" + pairs + b"."
        yield (
            f"key of an OrderedDict {pairs}",
            (HEAD + START + ORDERED + b")R" + first + value + b"N" + pairs + b"."),
        )
    yield "items of an OrderedDict", HEAD + START + ORDERED + value + b"\x85R."
    yield "arguments", HEAD + START + ORDERED + value + b"R."
    yield "called", HEAD + START + value + b")R."
    yield "reference", HEAD + START + value + b"Q."
    yield "state", HEAD + START + value + b"."
    yield "keys", HEAD + pickled({}) + START + value + b"."
    yield "one of the keys", HEAD + pickled({}) + START + b"]" + value + b"a."
    yield "tensor", state(value)
    for name in ("dtype", "key", "count", "offset", "shape", "strides"):
        yield name, state(placed(**{name: value}))
    for name in ("shape", "strides"):
        yield f"in {name}", state(placed(**{name: value + b"\x85"}))
        yield f"in {name} with a factor", state(placed(**{name: value + b"J\0\0\0\x01\x86"}))


BOMBS = {
    f"{what} as {place}": content
    for what, value in (NUMBERS | {"dup": DOUBLED}).items()
    for place, content in places(value)
}
MANY = b"(" + b"N" * 2**18 + b"t"
PAIRS = b"}(" + b"".join(b"X\x04\0\0\0%04xN" % i for i in range(2**16)) + b"u"
BOMBS |= {
    "many arguments again and again": HEAD + START + MANY + b"q\0" + (REBUILD + b"h\0R") * 9999,
    "a copy of a dictionary again and again": (
        HEAD + START + PAIRS + b"q\0" + (ORDERED + b"h\0\x85R") * 9999 + b"."
    ),
    "state set again and again": HEAD + START + PAIRS + b"q\0" + b"h\0b" * 2**18 + b".",
    "references of many": HEAD + START + MANY + b"q\0" + b"h\0Q" * 2**18 + b".",
    "tuples in tuples": HEAD + START + b")" + b"\x85" * 400_000 + b".",
    "lists in lists": HEAD + START + b"]" * 400_000 + b"a" * 399_999 + b".",
    "dictionaries": HEAD + START + b"}X\x01\0\0\0a" * 40_000 + b"N" + b"s" * 40_000 + b".",
    "marks": HEAD + START + b"(" * 400_000 + b".",
    "marks and lists": HEAD + START + b"(" * 400_000 + b"l" * 400_000 + b".",
    "without end": HEAD + START + b"}" * 2**23,
    "many empty ones": HEAD + START + b"(" + b"}" * (2**20 - 500) + b"t.",
    "long text": HEAD + START + b"X" + struct.pack("<I", 2**32 - 1),
    "long text of protocol 4": HEAD + START + b"\x8d" + struct.pack("<Q", 2**62),
    "bytes": HEAD + START + b"\x96" + struct.pack("<Q", 2**40),
    "frame": HEAD + b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "long number": HEAD + START + b"\x8b" + struct.pack("<i", 2**31 - 1),
    "digits": HEAD + START + b"I" + b"9" * 2**20 + b"\n.",
    "long name": HEAD + START + b"c" + b"a" * 2**20 + b"\n" + b"\x1b[2J" * 2**10 + b"\n.",
    "name of one line": HEAD + START + b"c" + b"a" * 2**23,
    "extension": HEAD + START + b"\x84" + b"\xff" * 4 + b".",
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


@pytest.fixture(autouse=True)
def patience():
    """Ends the process if it hangs, in C too."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_file_takes_no_memory_and_is_told_in_one_short_line(file, name):
    file.write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="was not read: ") as told:
            torch_file.read(file)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < 2**28
    assert len(str(told.value)) < 600
    assert str(told.value).isprintable()


def test_the_pieces_of_the_hostile_files_make_a_good_one(file):
    numbers = struct.pack("<q6f", 6, *range(6))
    file.write_bytes(state(placed()) + numbers)
    assert torch_file.read(file)["a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_many_tensors_of_the_same_numbers_are_no_way_to_more_memory(file):
    numbers = struct.pack("<q10000f", 10_000, *range(10_000))
    shape = {"shape": b"KdKd\x86", "strides": b"K\x01Kd\x86", "count": b"M\x10\x27"}
    names = [b"X\x01\0\0\0%c" % (97 + i) for i in range(26)]
    for count in (2, 26):
        tensors = b"".join(name + placed(**shape) + b"s" for name in names[:count])
        file.write_bytes(HEAD + START + b"}" + tensors + b"." + pickled(["0"]) + numbers)
        if count == 2:
            assert torch_file.read(file)["b"][3, 4] == 403
        else:
            with pytest.raises(UserError, match="of which many share numbers"):
                torch_file.read(file)


@pytest.mark.parametrize("fault", [ImportError, MemoryError])
def test_what_is_no_fault_of_the_file_is_not_told_of_it(file, monkeypatch, fault):
    def fail(stream):
        raise fault

    monkeypatch.setattr(torch_file, "_read", fail)
    file.touch()
    with pytest.raises(fault):
        torch_file.read(file)
