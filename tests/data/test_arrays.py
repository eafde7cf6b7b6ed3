"""A federation of arrays that a program holds."""

import numpy as np
import pytest
from hospitals import arrays, averaging, cnn, trained

import fedjax_med as fm


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda i, y, c: (i / 255, y, c), r"expected images uint8 .*got float"),
        (lambda i, y, c: (i[..., :1], y, c), r"expected images uint8 \[\.\.\., H, W, 3\]"),
        (lambda i, y, c: (i[1:], y, c), "expected inputs with 80 rows"),
        (lambda i, y, c: (i, y[1:], c), "expected labels with 80 rows"),
        (lambda i, y, c: (i, y - 1, c), "expected labels from 0, got -1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(change, said):
    model = cnn()
    process = fm.Process(averaging(model), fm.aggregators.mean.build())
    with pytest.raises(fm.UserError, match=said) as refused:
        trained(process, model, fm.data.from_arrays(*change(*arrays())), 1)
    assert "\n" not in str(refused.value)


def test_inputs_have_the_dtype_that_a_device_gives_them():
    images, labels, hospital = arrays()
    shapes = fm.data.from_arrays(images / 255, labels, hospital).shapes()
    assert (shapes.image.dtype, shapes.label.dtype) == (np.float32, np.int32)


def test_lists_and_bools_are_labels_and_other_ids_are_refused():
    images, labels, hospital = arrays()
    told = fm.data.from_arrays(images, labels.tolist(), hospital.tolist())
    np.testing.assert_array_equal(told.split.label, labels)
    assert fm.data.from_arrays(images, labels > 1, hospital).split.label.dtype == np.int32
    for wrong in (np.eye(80), np.where(labels > 0, 1.0, np.nan)):
        with pytest.raises(fm.UserError, match="expected one client id for each example"):
            fm.data.from_arrays(images, labels, wrong)
    with pytest.raises(fm.UserError, match="expected labels from 0"):
        fm.data.from_arrays(images, labels + 2**32, hospital)


def test_clients_are_numbered_in_the_order_of_their_names():
    images, labels, hospital = arrays()
    clients = fm.data.from_arrays(images, labels, hospital)
    for name, index in zip("abcd", clients.indices, strict=True):
        np.testing.assert_array_equal(index, np.flatnonzero(hospital == name))
    numbered = fm.data.from_arrays(images, labels, np.where(hospital == "a", 0, 3), num_clients=5)
    assert numbered.sizes.tolist() == [(hospital == "a").sum(), 0, 0, (hospital != "a").sum(), 0]
    with pytest.raises(fm.UserError, match="expected clients numbered from 0 to 2"):
        fm.data.from_arrays(images, labels, np.where(hospital == "a", 0, 3), num_clients=3)
    with pytest.raises(fm.UserError, match="expected clients numbered from 0 to 3"):
        fm.data.from_arrays(images, labels, hospital, num_clients=4)


def test_trees_keep_their_leaves_and_each_has_a_row_for_every_example():
    inputs, labels = {"dose": [[1.0, 2.0]] * 3, "age": [4.0, 5.0, 6.0]}, {"mask": [0, 1, 1]}
    arrays_of = lambda tree: {name: np.array(leaf) for name, leaf in tree.items()}  # noqa: E731
    clients = fm.data.from_arrays(arrays_of(inputs), arrays_of(labels), [1, 0, 1])
    assert {name: leaf.shape for name, leaf in clients.split.image.items()} == {
        "dose": (3, 2),
        "age": (3,),
    }
    assert clients.split.label["mask"].tolist() == [0, 1, 1]
    assert [index.tolist() for index in clients.indices] == [[1], [0, 2]]
    for wrong in (np.float32(4), np.zeros(2)):
        with pytest.raises(fm.UserError, match="expected inputs with 3 rows"):
            fm.data.from_arrays({**arrays_of(inputs), "age": wrong}, labels["mask"], [1, 0, 1])


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([0.5, 1.0, 2.0], r"a name or a whole number, got 0\.5 in row 0"),
        ([0.0, np.nan, 2.0], "a name or a whole number, got nan in row 1"),
        (["a", None, "b"], "all names or all whole numbers, got None in row 1"),
        (["a", "b", float("nan")], "all names or all whole numbers, got nan in row 2"),
        (np.array(["a", None, "b"], object), "got None in row 1"),
        (["a", 1, "b"], "all names or all whole numbers, got 1 in row 1"),
        (np.array(["2026-01-01"] * 3, "datetime64[D]"), r"of dtype datetime64\[D\]"),
        (["A", "A ", "b"], r"one spelling of each client's name, got 'A' and 'A '"),
        (["Graz", "graz", "b"], "got 'Graz' and 'graz'"),
        ([], "expected at least one example"),
    ],
)
def test_client_ids_that_are_missing_or_doubtful_are_refused(ids, said):
    rows = np.zeros((len(ids), 2), np.float32), np.zeros(len(ids), int)
    with pytest.raises(fm.UserError, match=said):
        fm.data.from_arrays(*rows, ids)


def test_whole_numbers_and_names_of_any_container_are_client_ids():
    rows = np.zeros((3, 2), np.float32), np.zeros(3, int)
    for ids in ([1.0, 0.0, 1.0], (1, 0, 1), np.array([1, 0, 1], object), np.array(["b", "a", "b"])):
        assert fm.data.from_arrays(*rows, ids).sizes.tolist() == [1, 2]
    assert fm.data.from_arrays(*rows, [1.0, 0.0, 1.0], num_clients=3).sizes.tolist() == [1, 2, 0]
    for wrong in ("3", 2.0, -1):
        with pytest.raises(fm.UserError, match="expected num_clients to be a whole number"):
            fm.data.from_arrays(*rows, [1, 0, 1], num_clients=wrong)


@pytest.mark.parametrize(
    ("inputs", "labels", "said"),
    [
        ([[1.0]] * 3, None, r"expected labels with 3 rows.* got None: .*numpy\.zeros\(3\)"),
        ({}, [0, 1, 0], "expected inputs with 3 rows"),
        ([[1.0], [2.0, 3.0], [4.0]], [0, 1, 0], "inputs as arrays, got a list of unequal rows"),
        ([["x"]] * 3, [0, 1, 0], "expected inputs as an array of numbers, got dtype <U1"),
        ([[1.0]] * 3, ["a", "b", "a"], r"expected labels .*<U1: numpy\.unique\(labels, return_inv"),
        ({"a": np.array([None] * 3)}, [0, 1, 0], "expected inputs a as .* got dtype object"),
        ({"day": np.zeros(3, "datetime64[D]")}, [0, 1, 0], "inputs day .* got dtype datetime64"),
        ({"a": np.zeros(3), "b": np.zeros(2)}, [0, 1, 0], r"with 3 rows.* got b, .* shape \[2\]"),
        (np.array([[1], [2], [2**40]]), [0, 1, 0], "range of int32, .* got 1099511627776 in row 2"),
        ({"a": np.array([0, 2**64 - 1, 0], np.uint64)}, [0, 1, 0], "inputs a within .* uint32"),
        (np.array([[1.0], [1e300], [0.0]]), [0, 1, 0], r"range of float32, .* 1e\+300 in row 1"),
        ([[1.0]] * 3, {"a": np.array([0, -(2**40), 0])}, "expected labels a within the range"),
    ],
)
def test_leaves_that_a_device_cannot_hold_are_named(inputs, labels, said):
    with pytest.raises(fm.UserError, match=said) as refused:
        fm.data.from_arrays(inputs, labels, [0, 1, 1])
    assert "\n" not in str(refused.value)
    fm.data.from_arrays([[np.nan], [np.inf], [1.0]], [0.5, np.nan, 2.0], [0, 1, 1])
