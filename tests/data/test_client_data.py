"""Clients side by side, with padding at the end that does not count."""

import itertools

import numpy as np
import pytest

from fedjax_med.data.client_data import ClientData, class_counts, stack
from fedjax_med.data.dataset import Split
from fedjax_med.execution.bucketing import buckets, cohort_buckets


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


def test_capacity_is_the_largest_client_or_the_minimum(split):
    held = ClientData(split, (np.array([0, 2, 5]), np.array([1])))
    for least, capacity in ((0, 3), (2, 3), (8, 8)):
        roomy = held._replace(min_capacity=least)
        assert roomy.capacity == capacity
        assert roomy.shapes().image.shape == (2, capacity, 3, 2, 3)
    assert ClientData(split, (np.array([], np.int64),)).capacity == 1


def test_stack_is_a_copy(split):
    before = split.image.copy()
    stack(split, [np.arange(6)]).image[:] = 0
    assert np.array_equal(split.image, before)


def test_position_that_does_not_exist_is_refused(split):
    with pytest.raises(IndexError):
        stack(split, [np.array([0, 6])])


def test_class_counts_of_each_client(split):
    held = ClientData(split, (np.array([0, 2, 5]), np.array([], np.int64), np.array([3, 4])))
    counts = class_counts(held, num_classes=4)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]]


def padded(sizes, groups, batch, devices):
    """What the groups cost: examples computed, padding included."""
    total = 0
    for group in groups:
        largest = int(max(sizes[i] for i in group))
        largest = -(-largest // batch) * batch if batch and largest > batch else max(largest, 1)
        total += -(-len(group) // devices) * devices * largest
    return total


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("batch", [0, 4])
def test_buckets_have_nearly_the_least_padding_of_all(batch, devices):
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes = rng.integers(0, 40, rng.integers(1, 9)).astype(np.int32)
        groups = buckets(sizes, batch, devices)
        assert sorted(np.concatenate(groups).tolist()) == list(range(len(sizes)))
        assert all((np.diff(group) > 0).all() for group in groups)
        order = np.argsort(sizes, kind="stable")
        cost = [padded(sizes, [[client]], batch, 1) for client in order]
        between = np.flatnonzero(np.diff(cost)) + 1  # clients that cost the same stay together
        cuts = [
            np.split(order, cut)
            for number in range(min(3, len(between)) + 1)
            for cut in itertools.combinations(between.tolist(), number)
        ]
        least = min(padded(sizes, one, batch, devices) for one in cuts)
        assert padded(sizes, groups, batch, devices) <= 1.1 * least


def test_a_cohort_of_very_unequal_clients_computes_half_of_the_padding_in_few_shapes():
    rng = np.random.default_rng(0)
    sizes = np.maximum(rng.lognormal(4, 1, 10_000).astype(np.int32), 1)
    shapes, cost, alone, whole = set(), 0, 0, 0
    for _ in range(100):
        cohort = np.sort(rng.choice(10_000, 100, replace=False)).astype(np.int32)
        groups = cohort_buckets(cohort, sizes, 8)
        assert len(groups) <= 4
        assert np.array_equal(np.sort(np.concatenate([group for group, _ in groups])), cohort)
        for group, room in groups:
            assert group.dtype == np.int32
            assert (np.diff(group) > 0).all()
            assert sizes[group].max() <= room
        shapes.add(tuple((len(group), room) for group, room in groups))
        cost += sum(len(group) * room for group, room in groups)
        alone += int(sizes[cohort].sum())
        whole += len(cohort) * int(sizes[cohort].max())
    assert len(shapes) <= 8
    assert cost < 4 * alone
    assert cost < whole / 2


def test_a_cohort_of_equal_clients_or_of_a_few_is_one_bucket():
    many = np.arange(100, dtype=np.int32)
    for devices in (1, 4):
        (only,) = cohort_buckets(many, np.full(1_000, 17, np.int32), 8, devices)
        assert np.array_equal(only[0], many)
        assert only[1] == 17
    sizes = np.array([1, 900] * 40, np.int32)
    assert len(cohort_buckets(many[:15], sizes, 8)) == 1
    assert [len(group) for group, _ in cohort_buckets(many[:16], sizes, 8)] == [8, 8]
    assert len(cohort_buckets(many[:63], sizes, 8, devices=4)) == 1
    assert [len(group) for group, _ in cohort_buckets(many[:65], sizes, 8, 4)] == [32, 33]


def test_equal_clients_are_one_bucket_and_unequal_ones_waste_little():
    assert len(buckets(np.full(100, 17, np.int32), 8)) == 1
    assert len(buckets(np.array([16, 17, 16, 17], np.int32), 32)) == 1
    rng = np.random.default_rng(0)
    sizes = np.maximum(rng.lognormal(4, 1, 10_000).astype(np.int32), 1)
    groups = buckets(sizes, 8)
    assert len(groups) <= 4
    assert padded(sizes, groups, 8, 1) < 2 * sizes.sum()
    assert padded(sizes, [np.arange(10_000)], 8, 1) > 15 * sizes.sum()
