import collections
import contextlib
import json
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedjax_med.errors import UserError
from fedjax_med.models import linear
from fedjax_med.models.pretrained import torch_file, weights

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}


class Name:
    """Pickled as the name of what is in a module that need not be there."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a name."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class Reference:
    """Pickled as a persistent id."""

    def __init__(self, *what):
        self.what = what


def pickled(value):
    """Protocol 2 by hand: torch need not be there to be named."""

    def write(value):
        if isinstance(value, Name):
            return f"c{value.module}\n{value.name}\n".encode()
        if isinstance(value, Call):
            return write(value.name) + write(value.arguments) + b"R"
        if isinstance(value, Reference):
            return write(value.what) + b"Q"
        if isinstance(value, tuple):
            return b"(" + b"".join(map(write, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, dict):
            pairs = b"".join(write(key) + write(item) for key, item in value.items())
            return b"}(" + pairs + b"u"
        return pickle.dumps(value, protocol=2)[2:-1]  # memoizing is of no use to anyone here

    return b"\x80\x02" + write(value) + b"."


def tensor(key, shape, strides, offset=0, size=6, kind="FloatStorage"):
    storage = Reference("storage", Name("torch", kind), key, "cpu", size, None)
    hooks = Call(Name("collections", "OrderedDict"))
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, hooks)


def storage(numbers):
    return struct.pack("<q", len(numbers)) + numbers.tobytes()


SIX = np.arange(6, dtype="<f4")


def write(path, state, keys=("0",), storages=(SIX,), magic=MAGIC, system=SYSTEM, protocol=PROTOCOL):
    head = b"".join(pickled(item) for item in (magic, protocol, system, state, list(keys)))
    path.write_bytes(head + b"".join(map(storage, storages)))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


def test_tensors_share_a_storage_by_offset_and_stride(file):
    state = {
        "whole": tensor("0", (2, 3), (3, 1)),
        "turned": tensor("0", (3, 2), (1, 3)),
        "part": tensor("0", (2, 2), (2, 1), offset=1),
        "number": tensor("0", (), (), offset=5),
        "empty": tensor("0", (0, 3), (3, 1)),
    }
    read = weights.read(str(write(file, state)))
    assert read["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert read["part"].tolist() == [[1, 2], [3, 4]]
    assert read["number"] == 5
    assert read["number"].shape == ()
    assert read["empty"].shape == (0, 3)
    assert all(one.flags.c_contiguous for one in read.values())
    assert {one.dtype.name for one in read.values()} == {"float32"}


@pytest.mark.parametrize("kind", torch_file._TYPES)
def test_numbers_of_every_type_keep_their_type(file, kind):
    numbers = np.array([0, 1], torch_file._TYPES[kind])
    state = {"a": tensor("7", (2,), (1,), size=2, kind=kind)}
    read = torch_file.read(write(file, state, ["7"], [numbers]))["a"]
    assert read.dtype == numbers.dtype
    assert read.tolist() == numbers.tolist()


def test_storages_are_told_apart_by_their_keys_and_not_their_order(file):
    state = collections.OrderedDict(a=tensor("x", (1,), (1,), size=1), b=tensor("y", (6,), (1,)))
    read = torch_file.read(write(file, state, ["y", "x"], [SIX, np.array([9], "<f4")]))
    assert read["a"].tolist() == [9]
    assert read["b"].tolist() == SIX.tolist()


class Shell:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["magic", "state"])
@pytest.mark.parametrize("how", ["system", "eval"])
def test_program_in_a_pickle_is_named_and_never_run(file, tmp_path, protocol, place, how):
    trace = tmp_path / "trace"
    bad = pickle.dumps(Shell(f"touch {trace}"), protocol=protocol)
    if how == "eval":
        bad = pickled(Call(Name("builtins", "eval"), f"open({str(trace)!r}, 'w').close()"))
    start = b"" if place == "magic" else b"".join(map(pickled, (MAGIC, PROTOCOL, SYSTEM)))
    file.write_bytes(start + bad)
    message = rf"asks for (posix|nt|builtins)\.{how}, .*nothing of it was run"
    with pytest.raises(UserError, match=message) as caught:
        weights.read(str(file))
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    pickle.loads(bad)  # the program is one
    assert trace.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch._utils", "_rebuild_parameter"),
        ("torch", "load"),
        ("torch", "FloatStorage.__class__"),
        ("collections", "namedtuple"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("torch._utils._rebuild_tensor_v2", "__globals__"),
        ("fedjax_med.models.pretrained.torch_file", "_rebuild"),
        ("numpy", "frombuffer"),
    ],
)
def test_other_names_are_refused(file, module, name):
    with pytest.raises(UserError, match=f"asks for {module}.{name}, which is no tensor"):
        torch_file.read(write(file, {"a": Name(module, name)}))


def test_state_set_on_what_a_pickle_names_does_not_stay(file):
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    defaults = rebuild + pickled((None, {"__defaults__": (1, 2)}))[2:-1] + b"b"
    head = b"".join(map(pickled, (MAGIC, PROTOCOL, SYSTEM)))
    file.write_bytes(head + b"\x80\x02" + defaults + b".")
    with pytest.raises(UserError):
        torch_file.read(file)
    assert torch_file._rebuild.__defaults__ is None


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": tensor("0", (7,), (1,))}, "'a' does not lie inside of its storage"),
        ({"a": tensor("0", (2, 3), (4, 1))}, "'a' does not lie inside"),
        ({"a": tensor("0", (2,), (1,), offset=5)}, "'a' does not lie inside"),
        ({"a": tensor("0", (2,), (1,), offset=-1)}, "'a' does not lie inside"),
        ({"a": tensor("0", (2,), (-1,), offset=3)}, "'a' does not lie inside"),
        ({"a": tensor("0", (10**12, 10**12), (0, 0))}, "'a' does not lie inside"),
        ({"a": tensor("0", (2, 3), (1,))}, "is damaged"),
        ({"a": tensor("0", (6,), (1,), size=10**15)}, "ends too early"),
        ({"a": tensor("1", (6,), (1,))}, "is damaged"),
        ({"a": 3}, "a dictionary of tensors by name"),
        ({"state_dict": {"a": tensor("0", (6,), (1,))}}, "a dictionary of tensors by name"),
        ([tensor("0", (6,), (1,))], "a dictionary of tensors by name"),
        ({"a": tensor("0", (6,), (1,), kind="BFloat16Storage")}, "torch.BFloat16Storage"),
        ({"a": Reference("storage", "O", "0", "cpu", 6, None)}, "a storage of 'O'"),
        ({"a": Reference("storage")}, "is damaged"),
    ],
)
def test_tensor_outside_of_its_numbers_is_refused(file, state, message):
    with pytest.raises(UserError, match=message) as caught:
        torch_file.read(write(file, state))
    assert "\n" not in str(caught.value)


def test_claim_of_many_numbers_is_checked_before_memory_is_taken(file):
    state = {"a": tensor("0", (6,), (1,), size=10**15)}
    head = b"".join(pickled(item) for item in (MAGIC, PROTOCOL, SYSTEM, state, ["0"]))
    file.write_bytes(head + struct.pack("<q", 10**15) + SIX.tobytes())
    with pytest.raises(UserError, match="ends too early"):
        torch_file.read(file)


def test_file_cut_anywhere_is_told_in_one_line(file):
    whole = write(file, {"a": tensor("0", (6,), (1,))}).read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(UserError, match="was not read") as caught:
            torch_file.read(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 3}, "expected a file of torch"),
        ({"protocol": 1000}, "expected protocol 1001"),
        ({"system": {"little_endian": False}}, "expected protocol 1001 of a little-endian machine"),
    ],
)
def test_file_of_another_kind_is_told_apart(file, changes, message):
    with pytest.raises(UserError, match=message):
        torch_file.read(write(file, {"a": tensor("0", (6,), (1,))}, **changes))


def test_a_pickle_that_claims_to_remember_much_takes_no_memory(file):
    """Python's own unpickler in C takes 16 bytes for each object up to the number it is given."""
    many = (2**22).to_bytes(4, "little")
    file.write_bytes(b"\x80\x02]r" + many + b".")

    def taken(load):
        tracemalloc.start()
        try:
            with contextlib.suppress(UserError):
                load()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert taken(lambda: torch_file.read(file)) < 2**20
    assert taken(lambda: pickle.loads(file.read_bytes())) > 2**25


def test_new_format_of_torch_is_told_with_what_to_do(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(UserError, match=r"a zip archive.*_use_new_zipfile_serialization=False"):
        weights.read(str(file))


def test_safetensors_are_read(tmp_path):
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(4, np.int64)}
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    read = weights.read(str(file))
    assert read.keys() == tensors.keys()
    for name, expected in tensors.items():
        np.testing.assert_array_equal(read[name], expected)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match="does not read as safetensors"):
        weights.read(str(file))


def safetensors_of(kind, shape, data):
    header = {"a": {"dtype": kind, "shape": shape, "data_offsets": [0, len(data)]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("kind", "shape", "data", "message"),
    [
        *(
            (kind, [2], b"\1\1", "F16, BF16, F32, F64")
            for kind in ("F8_E4M3", "F8_E5M2", "F8_E8M0")
        ),
        ("F4", [2], b"\1", "F16, BF16, F32, F64"),
        ("F32", [0, 2**62], b"", "does not read as safetensors"),
        ("F32", [1] * 100, b"\0" * 4, "does not read as safetensors"),
        ("F\n\x1b[2J" * 1000, [2], b"\0" * 4, "does not read as safetensors"),
        ("C64", [1], b"\0" * 8, "expected real numbers, got complex64 in 'a'"),
        ("BOOL", [1], b"\1", "expected real numbers, got bool in 'a'"),
        ("F32", [2], struct.pack("<2f", 1, float("nan")), "'a' holds what is no finite float32"),
        ("F32", [2], struct.pack("<2f", 1, float("-inf")), "'a' holds what is no finite float32"),
        ("F64", [2], struct.pack("<2d", 1, 1e39), "'a' holds what is no finite float32"),
        ("BF16", [1], b"\x80\x7f", "'a' holds what is no finite float32"),
    ],
)
def test_safetensors_of_other_things_than_finite_numbers_are_told(
    tmp_path, kind, shape, data, message
):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors_of(kind, shape, data))
    with pytest.raises(UserError, match=message) as told:
        weights.read(str(file))
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 600


def test_a_header_of_safetensors_is_bounded_before_it_is_parsed(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**23) + b"{}".ljust(2**23))
    with pytest.raises(UserError, match="at most 4,194,304 bytes of names and shapes"):
        weights.read(str(file))


def test_safetensors_of_bfloat16_are_read(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors_of("BF16", [1], b"\x80\x3f"))
    assert weights.read(str(tmp_path / "a.safetensors"))["a"].astype(float).tolist() == [1]


def test_torch_files_of_other_things_than_finite_numbers_are_told(file):
    for numbers, kind in (([True], "BoolStorage"), ([float("nan")], "HalfStorage")):
        numbers = np.array(numbers, torch_file._TYPES[kind])
        write(file, {"a": tensor("0", (1,), (1,), size=1, kind=kind)}, storages=[numbers])
        with pytest.raises(UserError, match=r"weights\.pth: .*'a'"):
            weights.read(str(file))


@pytest.mark.parametrize("fault", [ImportError, MemoryError])
def test_what_is_no_fault_of_safetensors_is_not_told_of_them(tmp_path, monkeypatch, fault):
    def fail(file):
        raise fault

    monkeypatch.setattr("safetensors.numpy.load_file", fail)
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(fault):
        weights.read(str(tmp_path / "a.safetensors"))


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.pth: there is no such file \(expected imagenet"):
        weights.read(str(tmp_path / "none.pth"))


@pytest.fixture(autouse=True)
def _records(tmp_path, monkeypatch):
    """What is recorded of the hub."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_hub_gives_the_file_that_it_downloads(tmp_path, monkeypatch):
    asked, file = [], tmp_path / "model.safetensors"
    save_file({"a": np.ones(3, np.float32)}, file)

    def download(*what):
        asked.append(what)
        return str(file)

    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert weights.read("hub")["a"].tolist() == [1, 1, 1]
    assert asked == [("timm/tf_efficientnet_lite0.in1k", "model.safetensors")]


def test_hub_without_the_internet_is_told_in_one_line(monkeypatch):
    def download(*_):
        raise OSError("no route\nto host")

    hub = types.SimpleNamespace(hf_hub_download=download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(UserError, match=r"no route to host.*pretrained=imagenet, or a file"):
        weights.read("hub")


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [("hub", "huggingface_hub", "hub"), ("x.safetensors", "safetensors", "pretrained")],
)
def test_missing_package_is_told_with_how_to_get_it(tmp_path, monkeypatch, source, package, extra):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.safetensors").touch()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'pip install "fedjax_med\[{extra}\]", or in a clone'):
        weights.read(source)


def test_missing_weights_are_told_with_how_to_get_them(monkeypatch):
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "fedjax_med\[pretrained\]", or in a clone'):
        weights.read("imagenet")


def test_weights_of_the_package_are_those_that_were_published(tmp_path, monkeypatch):
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: spec)
    file = tmp_path / "models" / "efficientnet-lite0-57934424.pth"
    with pytest.raises(UserError, match=r"57934424\.pth cannot be read: .*anew"):
        weights.read("imagenet")
    file.parent.mkdir()
    write(file, {"a": tensor("0", (6,), (1,))})
    with pytest.raises(UserError, match="not the file that was published: expected SHA-256 57934"):
        weights.read("imagenet")


def test_model_without_others_weights_refuses_them():
    with pytest.raises(UserError, match=r"takes no weights.*model.name=efficientnet_lite0"):
        weights.start(linear.build(3), "imagenet")


def test_a_bundle_that_is_not_there_is_told_as_such(tmp_path):
    with pytest.raises(UserError, match=r"folder of a bundle \(there is none of this name\)"):
        weights.start(linear.build(3), str(tmp_path / "frist"))
    with pytest.raises(UserError, match=r"no such file .*the folder of a bundle, or a file"):
        weights.read(str(tmp_path / "frist"))


def test_without_a_source_the_first_parameters_stay():
    params = {"w": np.ones(3)}
    assert weights.start(linear.build(3), "")(params) is params
