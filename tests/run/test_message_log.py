"""Kept updates of a stranger's workdir take no more memory than they are large."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from fedjax_med.errors import UserError
from fedjax_med.run import message_log

ONE = np.ones(3, np.float32)
GOOD = {
    "client": np.arange(2, dtype=np.int32),
    "weight": np.ones(2, np.float32),
    "leaf_0": np.ones((2, 3), np.float32),
}


def npy(array, shape=None, version=1):
    """An array as `numpy.save` writes it; its header may claim another shape."""
    stream = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array)
    header["shape"] = array.shape if shape is None else shape
    getattr(np.lib.format, f"write_array_header_{version}_0")(stream, header)
    return stream.getvalue() + array.tobytes()


def written(tmp_path, packing=zipfile.ZIP_STORED, **members):
    (tmp_path / "updates").mkdir()
    with zipfile.ZipFile(tmp_path / "updates/round_000001.npz", "w", packing) as archive:
        for name, data in ({name: npy(array) for name, array in GOOD.items()} | members).items():
            archive.writestr(f"{name}.npy", data)
    return tmp_path


def test_members_as_numpy_writes_them_are_read(tmp_path):
    read = message_log.load(written(tmp_path), 1, ONE)
    np.testing.assert_array_equal(read.message, GOOD["leaf_0"])
    np.testing.assert_array_equal(read.client, [0, 1])
    np.testing.assert_array_equal(read.loss, [0, 0])


ROWS = 2**22
BAD = {
    "a claim": {"leaf_0": npy(GOOD["leaf_0"], (2**40, 3))},
    "claims that agree": {
        name: npy(array, (ROWS, *array.shape[1:])) for name, array in GOOD.items()
    },
    "another shape": {"leaf_0": npy(np.zeros((2, 2**22), np.float32))},
    "other rows": {"leaf_0": npy(np.zeros((2**22, 3), np.float32))},
    "other weights": {"weight": npy(np.zeros(2**23, np.float32))},
    "other losses": {"loss_before": npy(np.zeros(2**23, np.float32))},
    "other groups": {"group": npy(np.zeros((2, 2**22), np.int32))},
    "clients of many kinds": {"client": npy(np.zeros((2, 2**22), np.int32))},
    "a number": {"client": npy(np.int32(3))},
    "another type": {"leaf_0": npy(np.ones((2, 3)))},
    "objects": {"leaf_0": npy(np.ones((2, 3), np.float32)).replace(b"<f4", b"|O ")},
    "another version": {"leaf_0": npy(GOOD["leaf_0"], version=2)},
    "a header that claims much": {"leaf_0": b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(2**25)},
    "more than it says": {"leaf_0": npy(GOOD["leaf_0"]) + bytes(2**25)},
    "no array": {"leaf_0": b"x"},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_as_expected_is_refused_before_memory_is_taken(tmp_path, name):
    written(tmp_path, **BAD[name])
    refused(tmp_path)


def test_what_is_compressed_is_refused_before_memory_is_taken(tmp_path):
    rows = {key: np.zeros((ROWS, *array.shape[1:]), array.dtype) for key, array in GOOD.items()}
    written(tmp_path, zipfile.ZIP_DEFLATED, **{key: npy(array) for key, array in rows.items()})
    refused(tmp_path)


def refused(tmp_path):
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"round_000001\.npz is damaged"):
            message_log.load(tmp_path, 1, ONE)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_a_file_larger_than_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(message_log, "memory_bytes", lambda: 100.0)
    refused(written(tmp_path))
