"""Clients side by side, with padding at the end that does not count."""

import numpy as np
import pytest

from fedjax_med.stack import class_counts, stack
from fedjax_med.types import Split


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    return Split(
        image=rng.integers(1, 256, (6, 3, 2, 3), np.uint8),  # no zeros: padding can be told apart
        label=np.array([0, 0, 1, 1, 2, 2], np.int32),
        name=np.array([f"c/{i}.png" for i in range(6)]),
        sha256=np.array([f"{i:064x}" for i in range(6)]),
        image_hash=np.zeros((6, 32), np.uint8),
        client=np.full(6, -1, np.int32),
    )


def test_clients_hold_their_examples_and_padding_is_zero_at_the_end(split):
    parts = [np.array([0, 2, 5]), np.array([1]), np.array([3, 4])]
    examples = stack(split, parts)
    assert (examples.image.dtype, examples.image.shape) == (np.uint8, (3, 3, 3, 2, 3))
    assert (examples.label.dtype, examples.mask.dtype) == (np.int32, np.bool_)
    assert examples.label.tolist() == [[0, 1, 2], [0, 0, 0], [1, 2, 0]]
    assert examples.mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    for client, part in enumerate(parts):
        assert np.array_equal(examples.image[client, : part.size], split.image[part])
    assert not examples.image[~examples.mask].any()


def test_clients_without_examples_have_one_that_does_not_count(split):
    examples = stack(split, [np.arange(0), np.arange(0)])
    assert examples.image.shape == (2, 1, 3, 2, 3)
    assert not examples.mask.any()


def test_stack_is_a_copy(split):
    before = split.image.copy()
    stack(split, [np.arange(6)]).image[:] = 0
    assert np.array_equal(split.image, before)


def test_position_that_does_not_exist_is_refused(split):
    with pytest.raises(IndexError):
        stack(split, [np.array([0, 6])])


def test_class_counts_leave_padding_out(split):
    examples = stack(split, [np.array([0, 2, 5]), np.array([1]), np.array([3, 4])])
    counts = class_counts(examples, num_classes=4)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0]]
