"""Operating points: thresholds from the clients' counts, and what they do on test images."""

import inspect
import json

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from test_intervals import check

from fedjax_med.errors import UserError
from fedjax_med.evaluation import (
    intervals,
    metrics,
    operating,
    operating_figures,
    operating_runs,
    operating_table,
    predictions,
    tables,
)
from fedjax_med.evaluation.operating import BINS, EDGES, Operating, Point
from fedjax_med.evaluation.operating_figures import Scored, figures, roc_sensitivity, screening
from fedjax_med.evaluation.predictions import Predictions

NAMES = ("a", "b", "c")
LEAST = 0.95
REPEAT = 400
# How much less often an interval is seen to cover, by chance: once in 10,000 simulations.
CHANCE = scipy.stats.binom.ppf(1e-4, REPEAT, LEAST) / REPEAT


def of_others(scores, k=0):
    """Probabilities of images of other classes than `k`, which have these of it; their labels."""
    scores = np.asarray(scores, float)
    p = np.zeros((len(scores), 3))
    p[:, k] = scores
    p[:, (k + 1) % 3] = 1 - scores
    return p, np.full(len(scores), (k + 1) % 3)


def point(scores, specificity):
    p, y = of_others(scores)
    return operating.choose(operating.histogram(p, y, 0), specificity)


# --- thresholds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("specificity", "called"),  # of the others 0.05, 0.15, ..., 0.95
    [(0.9, 1), (0.95, 0), (0.89, 1), (0.81, 1), (0.8, 2), (0.5, 5), (0.1, 9), (1e-12, 10)],
)
def test_threshold_calls_as_many_of_ten_as_the_specificity_allows(specificity, called):
    scores = np.arange(10) / 10 + 0.05
    found = point(scores, specificity)
    assert (scores >= found.threshold).sum() == called
    assert found.others == 10
    if called < 10:  # it is just above the first that is not called
        first = np.sort(scores)[::-1][called]
        odds = found.threshold / (1 - found.threshold) / (first / (1 - first))
        assert 1 < odds < np.exp(0.011)


def test_ties_at_the_threshold_are_not_called():
    scores = np.repeat([0.2, 0.6, 0.9], [5, 4, 1])  # one may be called
    assert (scores >= point(scores, 0.9).threshold).sum() == 1
    assert (scores >= point(scores, 0.85).threshold).sum() == 1
    assert (scores >= point(scores, 0.5).threshold).sum() == 5


@pytest.mark.parametrize("specificity", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_threshold_is_a_point_of_the_roc_curve_of_scikit_learn(specificity):
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=2000)
    logits = 2 * rng.normal(size=(2000, 3)) + 2 * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for k in range(3):
        found = operating.of_clients(p, labels, [2000], k, specificity)
        false, true, _ = sklearn.metrics.roc_curve(labels == k, p[:, k], drop_intermediate=False)
        best = true[false <= 1 - specificity + 1e-12].max()
        called = p[:, k].astype(np.float32) >= found.threshold
        assert called[labels != k].mean() <= 1 - specificity + 1e-12
        # Only images of the class within one bin, a hundredth of the logit, can make a difference.
        assert best - 0.02 <= called[labels == k].mean() <= best
        value, _ = roc_sensitivity(Scored(labels == k, p[:, k], None, None), specificity)
        assert value == pytest.approx(best)
        assert value == metrics.sensitivity_at(specificity, p, labels)[k]


def test_bins_are_of_the_logit_and_are_compared_as_predictions_csv_is_read():
    assert (EDGES[0], EDGES.dtype, len(EDGES)) == (0, np.float32, BINS)
    assert (np.diff(EDGES) >= 0).all()
    logits = scipy.special.logit(EDGES[1:1602].astype(float))  # below a half nothing is rounded
    np.testing.assert_allclose(np.diff(logits), 0.01, atol=1e-4)
    rng = np.random.default_rng(0)
    scores = np.concatenate([scipy.special.expit(rng.uniform(-20, 20, 5000)), EDGES, [0.0, 1.0]])
    counts = operating.histogram(*of_others(scores), 0)
    called = np.array([(scores.astype(np.float32) >= edge).sum() for edge in EDGES[::50]])
    distinct = np.append(EDGES[1:] > EDGES[:-1], True)
    tail = np.cumsum(counts[::-1])[::-1]
    np.testing.assert_array_equal(tail[::50][distinct[::50]], called[distinct[::50]])
    for wanted in (0.1, 0.5, 0.9):  # whatever the bin, the threshold calls what was counted
        threshold = operating.choose(counts, wanted).threshold
        assert (scores.astype(np.float32) >= threshold).mean() <= 1 - wanted + 1e-9


def test_without_images_of_other_classes_there_is_no_threshold():
    p, y = np.tile([1.0, 0, 0], (5, 1)), np.zeros(5, int)
    found = operating.of_clients(p, y, [5], 0, 0.9)
    assert found == Point(None, 0, "no validation images of other classes")
    empty = operating.of_clients(np.empty((0, 0)), np.empty(0, int), [0, 0], 0, 0.9)
    assert empty == found


def test_others_that_nothing_tells_apart_from_the_class_leave_no_threshold():
    found = point(np.repeat([1.0, 0.1], [3, 17]), 0.9)
    assert found.threshold is None
    assert found.reason == "3 of 20 validation images of other classes have probability 1"
    assert point(np.repeat([1.0, 0.1], [2, 18]), 0.9).threshold < 0.2


def test_few_images_of_other_classes_are_said():
    expected = "of other classes, expected at least 100"
    assert point(np.full(99, 0.1), 0.9).reason == f"only 99 validation images {expected}"
    assert point([0.1], 0.9).reason == f"only 1 validation image {expected}"
    assert point(np.full(100, 0.1), 0.9).reason == ""
    assert point(np.full(999, 0.1), 0.99).reason.endswith("at least 1000")


# --- what leaves a client ------------------------------------------------------------------------


def federation(rng, sizes=(7, 0, 12, 30)):
    labels = rng.integers(3, size=sum(sizes))
    return rng.dirichlet(np.ones(3), sum(sizes)), labels, sizes


def test_each_client_counts_its_own_images_and_the_sum_is_the_pooled_histogram(monkeypatch):
    p, y, sizes = federation(np.random.default_rng(0))
    given, sent, real = [], [], operating.histogram

    def client(probabilities, labels, k):
        given.append((probabilities.copy(), labels.copy()))
        sent.append(real(probabilities, labels, k))
        return sent[-1]

    monkeypatch.setattr(operating, "histogram", client)
    found = operating.of_clients(p, y, sizes, 1, 0.8)
    assert [len(labels) for _, labels in given] == [7, 12, 30]  # one has none
    ends = np.cumsum(sizes)
    for (its, labels), size, end in zip(given, (7, 12, 30), ends[[0, 2, 3]], strict=True):
        np.testing.assert_array_equal(its, p[end - size : end])
        np.testing.assert_array_equal(labels, y[end - size : end])
    pooled = real(p, y, 1)
    np.testing.assert_array_equal(sum(sent), pooled)
    assert pooled.sum() == (y != 1).sum()
    assert found == operating.choose(pooled, 0.8)
    assert list(inspect.signature(real).parameters) == ["probabilities", "labels", "k"]


def test_what_a_client_sends_depends_on_nobody_else_and_on_no_order():
    rng = np.random.default_rng(1)
    p, y, sizes = federation(rng)
    whole = operating.of_clients(p, y, sizes, 2, 0.8)
    first, others = slice(0, 7), np.arange(7, 49)
    sent = operating.histogram(p[first], y[first], 2)
    permuted = np.concatenate([np.arange(7), 7 + rng.permutation(12), 19 + rng.permutation(30)])
    assert operating.of_clients(p[permuted], y[permuted], sizes, 2, 0.8) == whole
    changed = p.copy()
    changed[others] = rng.dirichlet(np.ones(3), len(others))
    np.testing.assert_array_equal(operating.histogram(changed[first], y[first], 2), sent)
    assert sent.dtype == np.int64
    assert sent.shape == (BINS,)


# --- figures on test images ----------------------------------------------------------------------


def test_figures_at_a_threshold_are_shares_with_exact_intervals():
    positive = np.arange(60) < 20
    scores = np.where(np.arange(60) < 14, 0.9, np.where(np.arange(60) >= 57, 0.8, 0.1))
    found = figures(Scored(positive, scores, scores >= 0.5, None), Operating("a", prevalence=0.1))
    assert (found["n"], found["others"]) == (20, 40)
    assert found["sensitivity"] == 0.7
    assert found["specificity"] == 37 / 40
    for name, hits, size in (("sensitivity", 14, 20), ("specificity", 37, 40)):
        exact = scipy.stats.binomtest(hits, size).proportion_ci(method="exact")
        np.testing.assert_allclose(found["intervals"][name], exact)
    row = found["screening"]
    assert (row["people"], row["prevalence"]) == (1000, 0.1)
    numbers = {"found": 70, "missed": 30, "false_alarms": 67.5, "rightly_negative": 832.5}
    for name, value in numbers.items():
        assert row[name] == pytest.approx(value)
    assert row["ppv"] == pytest.approx(70 / 137.5)
    assert row["npv"] == pytest.approx(832.5 / 862.5)
    low, high = found["intervals"]["sensitivity"]
    np.testing.assert_allclose(row["intervals"]["found"], [100 * low, 100 * high])
    np.testing.assert_allclose(row["intervals"]["missed"], [100 - 100 * high, 100 - 100 * low])
    low, high = found["intervals"]["specificity"]
    np.testing.assert_allclose(
        row["intervals"]["false_alarms"], [900 - 900 * high, 900 - 900 * low]
    )
    both = [
        scipy.stats.binomtest(hits, size).proportion_ci(0.975, method="exact")
        for hits, size in ((14, 20), (37, 40))
    ]
    ppv = [100 * s / (100 * s + 900 * (1 - c)) for s, c in zip(*both, strict=True)]
    np.testing.assert_allclose(row["intervals"]["ppv"], ppv)
    npv = [900 * c / (900 * c + 100 * (1 - s)) for s, c in zip(*both, strict=True)]
    np.testing.assert_allclose(row["intervals"]["npv"], npv)


def test_groups_widen_the_intervals_by_their_design_effect():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    positive, scores = groups < 15, rng.random(40)[groups] + 0.3 * (groups < 15)
    alone = figures(Scored(positive, scores, scores >= 0.7, None), Operating("a", 0.8, 0.1))
    alike = figures(Scored(positive, scores, scores >= 0.7, groups), Operating("a", 0.8, 0.1))
    for name, limits in alone["intervals"].items():
        assert alike[name] == alone[name]
        assert np.diff(alike["intervals"][name]) > 1.2 * np.diff(limits)
    for name, limits in alone["screening"]["intervals"].items():
        assert np.diff(alike["screening"]["intervals"][name]) > 1.2 * np.diff(limits)


def test_what_is_undefined_is_none():
    asked, scores = Operating("a", prevalence=0.1), np.linspace(0, 1, 12)
    none = figures(Scored(np.zeros(12, bool), scores, scores > 0.5, None), asked)
    assert (none["n"], none["sensitivity"], none["roc_sensitivity"]) == (0, None, None)
    assert none["specificity"] == 0.5
    assert none["intervals"]["specificity"] is not None
    assert none["screening"]["found"] is None
    assert none["screening"]["intervals"]["false_alarms"] is None
    few = figures(Scored(np.arange(12) < 4, scores, scores > 0.5, None), asked)
    assert few["sensitivity"] == 0
    assert few["intervals"]["sensitivity"] is few["intervals"]["roc_sensitivity"] is None
    all_ = figures(Scored(np.ones(12, bool), scores, scores > 0.5, None), asked)
    assert all_["sensitivity"] == 0.5
    assert all_["specificity"] is all_["roc_sensitivity"] is all_["screening"]["ppv"] is None
    without = figures(Scored(np.arange(12) < 6, scores, None, None), asked)
    assert without["sensitivity"] is without["specificity"] is None
    assert without["intervals"]["sensitivity"] is without["intervals"]["specificity"] is None
    assert without["roc_sensitivity"] == 0
    assert without["screening"]["ppv"] is without["screening"]["intervals"]["npv"] is None
    for one in (none, few, all_, without):
        json.dumps(one, allow_nan=False)


@pytest.mark.parametrize(("size", "share"), [(99, 0.9), (60, 0.8), (300, 0.95), (12, 0.9)])
def test_ranks_of_a_quantile_are_binomial_quantiles(size, share):
    low, high = operating_figures._ranks(size, size, share)
    below = scipy.stats.binom(size, share)
    assert below.cdf(low - 1) <= 0.025 < below.cdf(low)
    assert high == size + 1 or below.sf(high - 1) <= 0.025
    assert below.sf(high - 2) > 0.025
    less = operating_figures._ranks(size, size / 2, share)  # half as many tell less
    assert less[0] <= low
    assert less[1] >= high


def test_interval_by_the_roc_curve_adds_the_errors_of_the_threshold_and_of_the_share():
    rest, mine = np.arange(100) + 0.5, np.arange(60, 110, 2.5)  # none ties
    scores, positive = np.concatenate([mine, rest]), np.arange(120) < 20
    value, (low, high) = roc_sensitivity(Scored(positive, scores, None, None), 0.9)
    assert value == 8 / 20  # 90 and more: the others above are ten
    exact = scipy.stats.binomtest(8, 20).proportion_ci(method="exact")
    below = scipy.stats.binom(100, 0.9)
    # The true threshold is between the 84th and the 96th of the others.
    assert below.cdf(83) <= 0.025 < below.cdf(84)
    assert below.sf(95) <= 0.025 < below.sf(94)
    least, most = (mine > rest[95]).mean(), (mine >= rest[83]).mean()
    assert low == pytest.approx(value - np.hypot(value - exact.low, value - least))
    assert high == pytest.approx(value + np.hypot(exact.high - value, most - value))


# --- coverage ------------------------------------------------------------------------------------


def drawn(rng, mine, rest, distance, groups=None, alike=0.0):
    """Scores of images of the class and of others, of which those of a group share some."""
    own = rng.normal(size=mine + rest)
    if groups is not None:
        own = np.sqrt(1 - alike) * own + np.sqrt(alike) * rng.normal(size=groups.max() + 1)[groups]
    return own + distance * (np.arange(mine + rest) < mine)


def in_groups(mine, rest, pattern=(1, 2, 3, 4, 5)):
    one = np.repeat(np.arange(mine), np.resize(pattern, mine))[:mine]
    other = np.repeat(np.arange(rest), np.resize(pattern, rest))[:rest]
    return np.concatenate([one, one.max() + 1 + other])


WORLDS = [(19, 99, 0.5), (19, 99, 0.97), (16, 60, 0.8), (50, 300, 0.3), (8, 30, 0.7)]


@pytest.mark.parametrize("alike", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize(("mine", "rest", "true"), WORLDS)
def test_sensitivity_at_a_specificity_is_covered(mine, rest, true, alike):
    rng, positive = np.random.default_rng(0), np.arange(mine + rest) < mine
    distance = scipy.stats.norm.ppf(0.9) + scipy.stats.norm.ppf(true)
    groups = None if alike is None else in_groups(mine, rest)
    hits = 0
    for _ in range(REPEAT):
        scores = drawn(rng, mine, rest, distance, groups, alike or 0.0)
        _, (low, high) = roc_sensitivity(Scored(positive, scores, None, groups), 0.9)
        hits += low - 1e-12 <= true <= high + 1e-12
    assert hits / REPEAT >= CHANCE


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("mine", "rest", "true"), WORLDS)
def test_what_a_threshold_does_is_covered(mine, rest, true, grouped):
    """The threshold is from other images, and not where it was meant to be."""
    rng, positive = np.random.default_rng(0), np.arange(mine + rest) < mine
    threshold = scipy.stats.norm.ppf(0.87)
    distance = threshold + scipy.stats.norm.ppf(true)
    groups, prevalence = in_groups(mine, rest) if grouped else None, 0.02
    truth = {"sensitivity": true, "specificity": 0.87}
    truth |= {"found": 20 * true, "false_alarms": 980 * 0.13}
    truth["ppv"] = truth["found"] / (truth["found"] + truth["false_alarms"])
    truth["npv"] = 980 * 0.87 / (980 * 0.87 + 20 * (1 - true))
    hits = dict.fromkeys(truth, 0)
    for _ in range(REPEAT):
        scores = drawn(rng, mine, rest, distance, groups, 0.5)
        tested = Scored(positive, scores, scores >= threshold, groups)
        found = figures(tested, Operating("a", 0.9, prevalence))
        limits = found["intervals"] | found["screening"]["intervals"]
        for name, value in truth.items():
            hits[name] += limits[name][0] - 1e-9 <= value <= limits[name][1] + 1e-9
    for name, count in hits.items():
        assert count / REPEAT >= CHANCE, name


LARGER = [(19, 99, 0.5), (19, 99, 0.9), (19, 99, 0.97), (8, 30, 0.7), (436, 1646, 0.7)]


@pytest.mark.slow
@pytest.mark.parametrize("alike", [None, 0.5, 1.0])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_every_interval_of_an_operating_point_is_covered(alike, spread):
    """Scores of the class spread less, or more, than those of the others."""
    rng, shares = np.random.default_rng(0), {}
    quantile, wanted = scipy.stats.norm.ppf, 0.9
    for mine, rest, true in LARGER:
        positive = np.arange(mine + rest) < mine
        groups = None if alike is None else in_groups(mine, rest)
        truth = {"sensitivity": true, "specificity": wanted, "roc_sensitivity": true}
        truth["ppv"] = 20 * true / (20 * true + 980 * (1 - wanted))
        truth["npv"] = 980 * wanted / (980 * wanted + 20 * (1 - true))
        hits = dict.fromkeys(truth, 0)
        for _ in range(1000):
            scores = drawn(rng, mine, rest, 0.0, groups, alike or 0.0)
            scores[:mine] = spread * (scores[:mine] + quantile(true)) + quantile(wanted)
            scored = Scored(positive, scores, scores >= quantile(wanted), groups)
            found = figures(scored, Operating("a", wanted, 0.02))
            limits = found["intervals"] | found["screening"]["intervals"]
            for name, value in truth.items():
                hits[name] += limits[name][0] - 1e-9 <= value <= limits[name][1] + 1e-9
        for name, count in hits.items():
            shares.setdefault(name, []).append(count / 1000)
    for name, each in shares.items():
        check(f"{name}, {spread}, {alike}", each)


def test_a_wider_tail_is_the_interval_of_that_confidence():
    exact = scipy.stats.binomtest(5, 16).proportion_ci(0.975, method="exact")
    np.testing.assert_allclose(intervals.proportion(5 / 16, 16, tail=0.0125), exact)


def test_predictive_values_are_wider_than_by_either_rate_alone():
    of = [
        intervals.Rates(np.array(0.8), np.array(50.0)),
        intervals.Rates(np.array(0.9), np.array(1e9)),
    ]
    limits = screening(*of, 0.02, True)["intervals"]
    found = np.array(limits["found"])
    alone = found / (found + 98)
    assert limits["ppv"][0] < alone[0] < alone[1] < limits["ppv"][1]


# --- whole evaluations ---------------------------------------------------------------------------


def images(rng, count):
    label = rng.integers(3, size=count).astype(np.int32)
    logits = rng.normal(size=(count, 3)) + 1.5 * np.eye(3)[label]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    name = np.array([f"{NAMES[k]}/{number}.png" for number, k in enumerate(label)])
    return Predictions(name, np.full(count, -1, np.int32), label, p)


def save(folder, seed, asked, group=False):
    """Write what `evaluate` writes of a run with these operating points; return its entry."""
    rng = np.random.default_rng(seed)
    held, found = images(rng, 150), images(rng, 60)
    groups = np.array([f"lesion {n // 2}" for n in range(60)]) if group else None
    sizes = np.array([50, 100])
    chosen = operating_runs.points(asked, NAMES, held.probabilities, held.label, sizes)
    entry = operating_runs.of_run(found, groups, NAMES, chosen, asked)
    folder.mkdir(parents=True)
    summary = metrics.summarize(found.probabilities, found.label, NAMES, groups=groups)
    tables.write_json(summary | {"operating": entry}, folder / "evaluation.json")
    predictions.write(found, NAMES, folder / predictions.NAME, groups)
    return entry


@pytest.mark.parametrize("group", [False, True])
def test_folds_are_counted_together_each_by_its_own_threshold(tmp_path, group):
    asked, folders = Operating("a,c", 0.8, 0.1), [tmp_path / f"fold_{k}" for k in range(3)]
    each = [save(folder, k, asked, group) for k, folder in enumerate(folders)]
    found = operating_runs.of_folds(folders)
    assert list(found["classes"]) == ["a", "c"]
    for name, row in found["classes"].items():
        of = [one["classes"][name] for one in each]
        assert len({one["threshold"] for one in of}) == 3
        assert list(row["thresholds"].values()) == [one["threshold"] for one in of]
        n, others = (sum(one[key] for one in of) for key in ("n", "others"))
        assert (row["n"], row["others"]) == (n, others)
        right = sum(one["sensitivity"] * one["n"] for one in of)
        assert row["sensitivity"] == pytest.approx(right / n)
        right = sum(one["specificity"] * one["others"] for one in of)
        assert row["specificity"] == pytest.approx(right / others)
        if not group:
            exact = intervals.proportion(row["specificity"], others)
            np.testing.assert_allclose(row["intervals"]["specificity"], exact)
        assert row["screening"]["prevalence"] == 0.1
        assert row["reasons"] == {}


def test_a_fold_without_a_threshold_leaves_none_to_all(tmp_path):
    asked, folders = Operating("a", 0.8), [tmp_path / f"fold_{k}" for k in range(2)]
    for k, folder in enumerate(folders):
        save(folder, k, asked)
    file = folders[1] / "evaluation.json"
    content = json.loads(file.read_text())
    content["operating"]["classes"]["a"] |= {"threshold": None, "reason": "nothing to choose by"}
    file.write_text(json.dumps(content))
    found = operating_runs.of_folds(folders)
    row = found["classes"]["a"]
    assert row["sensitivity"] is None
    assert row["roc_sensitivity"] is not None
    text = "\n".join(operating_table.lines(found))
    assert "fold_1: no threshold: nothing to choose by." in text
    (line,) = [one for one in text.splitlines() if one.startswith("sensitivity at the threshold")]
    assert line.split()[-2:] == ["-", "-"]


def test_folds_that_were_asked_otherwise_are_not_counted_together(tmp_path):
    save(tmp_path / "x", 0, Operating("a", 0.8))
    save(tmp_path / "y", 1, Operating("a", 0.9))
    save(tmp_path / "none", 1, Operating())
    assert operating_runs.of_folds([tmp_path / "x", tmp_path / "y"]) == {}
    assert operating_runs.of_folds([tmp_path / "x", tmp_path / "none"]) == {}


def test_settings_are_compared_by_seed_and_hospitals_by_their_mean(tmp_path):
    asked, saved = Operating("b", 0.8), {}
    for seed in range(2):
        for number, name in enumerate(("h0", "h1", "federated")):
            folder = tmp_path / name / str(seed)
            saved[name, seed] = save(folder, 10 * number + seed, asked)["classes"]["b"]
    settings = {
        "local": [[[tmp_path / f"h{n}" / str(seed)] for n in range(2)] for seed in range(2)],
        "federated": [[[tmp_path / "federated" / str(seed)]] for seed in range(2)],
    }
    found = operating_runs.compared(settings)
    assert found["specificity"] == 0.8
    row = found["classes"]["b"]
    for key in operating_figures.FIGURES:
        assert row["federated"][key] == [saved["federated", seed][key] for seed in range(2)]
        means = [(saved["h0", seed][key] + saved["h1", seed][key]) / 2 for seed in range(2)]
        assert row["local"][key] == pytest.approx(means)
    assert [name for name, _ in operating_table.of_settings(found)] == [
        "b: sensitivity at the threshold",
        "b: specificity at the threshold",
        "b: sensitivity at 80 % specificity (test images' ROC)",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        {"specificity": "x"},
        {"classes": []},
        {"classes": {"a": {}}},
        {"classes": {"a": 3}},
        {"prevalence": None},
    ],
)
def test_an_evaluation_that_is_damaged_is_refused_in_one_line(tmp_path, damage):
    save(tmp_path / "x", 0, Operating("a"))
    file = tmp_path / "x" / "evaluation.json"
    content = json.loads(file.read_text())
    content["operating"] |= damage
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="operating is not what `evaluate` writes") as said:
        operating_runs.read(tmp_path / "x")
    assert "\n" not in str(said.value)


def test_report_has_a_table_for_each_class(tmp_path):
    long = "a class with a name " + "that is long " * 4
    entry = save(tmp_path / "x", 0, Operating("a,b", 0.9, 0.025))
    entry["classes"][long] = entry["classes"].pop("b") | {"reason": "only 7 validation images"}
    summary = json.loads((tmp_path / "x" / "evaluation.json").read_text())
    text = tables.table(summary | {"operating": entry})
    row = entry["classes"]["a"]
    lines = text.splitlines()
    assert any(line.startswith(f"a: {row['n']} of 60 images") for line in lines)
    low, high = row["intervals"]["sensitivity"]
    assert f"{row['sensitivity']:.3f}  {low:.3f} to {high:.3f}" in text
    assert "threshold of 90 % specificity in validation" in text
    assert "of 1,000 people, 2.5 % of whom have it (assumed):" in text
    assert f"{row['screening']['false_alarms']:.1f}" in text
    assert "threshold rests on little: only 7 validation images." in lines
    assert max(map(len, lines)) <= 100
    grouped = {"groups": 1, "images": 2, "mates_in_train": ["x"]}
    grouped["without_mates"] = {"n": 50, "operating": entry}
    text = tables.table(summary | {"groups": grouped})
    assert f"a without group mates in Train: {row['n']} of 60 images" in text
    assert max(map(len, text.splitlines())) <= 100


def test_runs_are_averaged_if_all_were_asked_the_same():
    row = {"sensitivity": 0.5, "specificity": 0.9, "roc_sensitivity": None}
    summary = dict.fromkeys(tables.HEADLINES, 0.5)
    one = summary | {"operating": {"specificity": 0.9, "classes": {"a": row}}}
    two = summary | {
        "operating": {"specificity": 0.9, "classes": {"a": row | {"sensitivity": 0.7}}}
    }
    text = tables.markdown([one, two])
    assert "| a: sensitivity at the threshold | 0.600 ± 0.141 | 0.500 | 0.700 |" in text
    assert "| a: sensitivity at 90 % specificity (test images' ROC) | undefined in 2 of 2" in text
    assert "a:" not in tables.markdown([one, summary])
    other = summary | {"operating": {"specificity": 0.8, "classes": {"a": row}}}
    assert "a:" not in tables.markdown([one, other])


# --- what is asked for ---------------------------------------------------------------------------


def test_classes_are_names_with_commas_between_them():
    names = ["a", "b", "c, or d"]
    for text, expected in {
        "": [],
        "b": ["b"],
        "b, a,b": ["b", "a"],
        "c, or d": ["c, or d"],
    }.items():
        assert operating.classes(Operating(text), names) == expected
    with pytest.raises(UserError, match=r"no 'B' .*--config\.operating\.classes") as said:
        operating.classes(Operating("a,B"), names)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Operating("a", 1.0), r"--config\.operating\.specificity in \(0, 1\), got 1"),
        (Operating("a", 0.0), r"--config\.operating\.specificity in \(0, 1\), got 0"),
        (Operating("a", 0.9, 1.0), r"--config\.operating\.prevalence in \[0, 1\), got 1"),
        (Operating("a", 0.9, -0.1), r"--config\.operating\.prevalence in \[0, 1\), got -0.1"),
        (Operating("", 0.9, 0.02), r"prevalence=0\.02 is that of a class: give .*\.classes"),
    ],
)
def test_values_out_of_range_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        operating.check(asked)
    operating.check(Operating("a", 0.99, 0.5))
    operating.check(Operating())
