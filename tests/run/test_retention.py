import math

import numpy as np
import pytest

from fedjax_med.run.retention import Entry, best_first, kept

SCORED = {number: Entry(True, score) for number, score in enumerate([0.1, 0.9, 0.3, 0.9, 0.4], 1)}


@pytest.mark.parametrize(
    ("keep_last", "keep_best", "expected"),
    [
        (2, 1, {4, 5}),  # of equal scores the later one
        (1, 2, {2, 4, 5}),
        (1, 0, {5}),
        (0, 0, {5}),  # without the latest no run could go on
        (9, 9, {1, 2, 3, 4, 5}),
    ],
)
def test_the_last_and_the_best_are_kept(keep_last, keep_best, expected):
    assert kept(SCORED, keep_last, keep_best) == expected


def test_rounds_without_a_score_are_no_best_ones():
    entries = {1: Entry(True, None), 2: Entry(True, math.nan), 3: Entry(True, 0.0)}
    assert best_first(entries) == [3, 2, 1]
    assert kept(entries | {4: Entry(True, None)}, 1, 3) == {3, 4}


def test_an_unscheduled_round_is_kept_as_long_as_it_is_the_latest():
    entries = {2: Entry(True, 0.1), 4: Entry(True, 0.2), 5: Entry(False, 0.9)}
    assert kept(entries, 1, 1) == {4, 5}
    assert kept(entries, 2, 0) == {4, 5}
    assert kept(entries, 9, 9) == {2, 4, 5}
    assert best_first(entries) == [4, 2, 5]
    assert best_first(entries, last=5) == [5, 4, 2]
    assert kept(entries | {6: Entry(True, 0.0)}, 2, 1) == {4, 6}


@pytest.mark.parametrize("keep_last", [1, 2, 3])
@pytest.mark.parametrize("keep_best", [0, 1, 2])
def test_stops_between_scheduled_rounds_change_nothing_of_what_is_kept(keep_last, keep_best):
    rng = np.random.default_rng(keep_last)
    for _ in range(50):
        whole, stopped = {}, {}
        for number in range(1, 13):
            entry = Entry(number % 3 == 0, float(rng.integers(4)))
            for run, saved in ((whole, entry.scheduled), (stopped, rng.random() < 0.5)):
                if saved or entry.scheduled:
                    run[number] = entry
                    stay = kept(run, keep_last, keep_best)
                    for gone in run.keys() - stay:
                        del run[gone]
        assert whole == stopped


def test_what_cannot_be_read_is_left_alone():
    assert kept({1: None, 2: Entry(True, 0.5), 3: Entry(True, 0.1)}, 1, 0) == {1, 3}
    assert best_first({1: None, 2: Entry(True, 0.5)}) == [1, 2], "it may have been the best"
