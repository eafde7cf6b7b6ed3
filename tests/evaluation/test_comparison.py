"""Predictions as a table, and runs beside each other on the same images."""

import csv

import numpy as np
import pytest

from fedjax_med.errors import UserError
from fedjax_med.evaluation import comparison, metrics, per_client
from fedjax_med.evaluation import predictions as predicted
from fedjax_med.evaluation.predictions import Predictions

CLASSES = ("a, with a comma", "b")


def predictions(right, clients=None):
    """Of four images, two of each class; `right` says which are told rightly, all at 0.8."""
    label = np.array([0, 0, 1, 1], np.int32)
    told = np.where(right, label, 1 - label)
    probabilities = np.full((4, 2), 0.2, np.float32)
    probabilities[np.arange(4), told] = 0.8
    client = np.array(clients or [-1] * 4, np.int32)
    return Predictions(np.array([f"x/{i}.png" for i in range(4)]), client, label, probabilities)


def test_predictions_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    one = predictions([1, 0, 1, 1], [1, 0, 0, 1])
    one = one._replace(probabilities=rng.dirichlet([1e-3, 1], 4).astype(np.float32))
    predicted.write(one, CLASSES, tmp_path / "predictions.csv")
    again, names = predicted.read(tmp_path / "predictions.csv")
    assert names == CLASSES
    for before, after in zip(one, again, strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype.kind == after.dtype.kind


def hostile_names():
    hostile = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "'=1",
        "a;=1+1",
        "'",
        "\uff1d1",
        "a\\nb",
        "a\nb",
    ]
    return [*hostile, "\x1b[2J", "\udcff", "\u202e", "a,b", 'a"b', "\\x41", "\\", "\U000e0001", "é"]


def test_names_are_no_formulas_and_no_control_characters_in_the_table(tmp_path):
    names = hostile_names()
    count = len(names)
    label = np.arange(count, dtype=np.int32)
    shown = np.eye(count, dtype=np.float32)[::-1]
    one = Predictions(np.array(names), np.full(count, -1, np.int32), label, shown)
    predicted.write(one, names, tmp_path / "predictions.csv")
    again, classes = predicted.read(tmp_path / "predictions.csv")
    assert classes == tuple(names)
    np.testing.assert_array_equal(again.image, one.image)
    np.testing.assert_array_equal(again.label, one.label)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    for cell in (cell for row in (header, *rows) for cell in row):
        assert cell.isprintable()
        assert ";" not in cell
        assert not cell.startswith(("=", "+", "-", "@", "\uff1d"))
    assert header[:4] == ["image", "client", "label", "predicted"]
    assert [row[3] for row in rows] == header[4:][::-1]


def test_tables_of_earlier_versions_are_read(tmp_path):
    text = "image,client,label,'a,b\n'a/\\n.png,0,b,0.25,0.75\n"
    (tmp_path / "predictions.csv").write_text(text)
    found, classes = predicted.read(tmp_path / "predictions.csv")
    assert classes == ("'a", "b")
    assert found.image.tolist() == ["'a/\\n.png"]
    assert found.label.tolist() == [1]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "\0",
        "image,label,client,a,b\n",
        "a\n1,2\n",
        "image,client,label,a\nx,,b,1\n",
        "image,client,label,a\nx,99999999999,a,1\n",
        f"image,client,label,a\n{'x' * 200_000},,a,1\n",
    ],
)
def test_what_is_no_table_of_predictions_is_told_in_a_line(tmp_path, text):
    file = tmp_path / "predictions.csv"
    if text:
        file.write_text(text)
    with pytest.raises(UserError, match=r"cannot be read.*[Ee]valuate the run again"):
        predicted.read(file)


def test_folds_are_put_together_in_the_order_of_names_whose_ever_images_they_are(tmp_path):
    whole = predictions([1, 0, 1, 1], [1, 0, 0, 1])
    for fold, rows in enumerate(([3, 1], [2, 0])):
        part = Predictions(*(column[rows] for column in whole))
        predicted.write(part, CLASSES, tmp_path / f"{fold}" / predicted.NAME)
    together, _ = comparison.read([tmp_path / "0", tmp_path / "1"])
    assert together.image.tolist() == ["x/0.png", "x/1.png", "x/2.png", "x/3.png"]
    assert together.client.tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(together.probabilities, whole.probabilities)


def test_difference_is_the_mean_over_seeds_of_the_means_over_hospitals():
    ones = [[predictions([1, 1, 1, 1])], [predictions([1, 1, 1, 0])]]
    hospitals = [
        [predictions([0, 0, 1, 1]), predictions([1, 0, 1, 0])],
        [predictions([1, 1, 1, 0]), predictions([0, 0, 0, 0])],
    ]
    found = comparison.difference(ones, hospitals, "accuracy")
    assert found.by_seed == pytest.approx([1 - 0.5, 0.75 - 0.375])
    assert found.mean == pytest.approx((0.5 + 0.375) / 2)
    low, high = found.interval
    assert low < found.mean < high <= 1


def test_interval_of_a_difference_is_paired():
    """Two runs that are wrong on the same images differ less surely than two that are not."""
    same, reverse = [[predictions([1, 0, 1, 0])]], [[predictions([0, 1, 0, 1])]]
    for name in metrics.HEADLINES:
        paired = comparison.difference(same, same, name)
        low, high = paired.interval
        assert paired.mean == 0
        assert low <= 0 <= high
        other = comparison.difference(same, reverse, name).interval
        assert high - low < other[1] - other[0], name


def test_runs_that_are_equal_on_few_images_may_still_differ():
    same = [[predictions([1, 0, 1, 0])]]
    for name in ("accuracy", "balanced_accuracy"):
        low, high = comparison.difference(same, same, name).interval
        assert low < -0.05 < 0.05 < high


def test_different_images_are_not_compared():
    other = predictions([1, 1, 1, 1])
    other.image[0] = "y/0.png"
    with pytest.raises(UserError, match="evaluated on different images"):
        comparison.difference([[predictions([1] * 4)]], [[other]], "accuracy")


def test_scores_and_spread_are_means():
    scores = comparison.scores([predictions([1, 1, 1, 1]), predictions([1, 0, 0, 0])])
    assert scores["accuracy"] == pytest.approx(0.625)
    assert scores.keys() == metrics.HEADLINES.keys()
    assert comparison.spread([0.5]) == "0.500"
    assert comparison.spread([0.4, 0.6]) == "0.500 ± 0.141"
    found = comparison.Difference(0.1, [-0.05, 0.25], [])
    assert comparison.in_words(found) == "+0.100 (-0.050 to +0.250)"


def test_seeds_under_which_images_belong_to_other_clients_are_compared_image_by_image(tmp_path):
    whole = predictions([1, 0, 1, 1], [1, 0, 0, 1])
    runs = []
    for seed, owners in enumerate(([1, 0, 0, 1], [0, 1, 0, 1])):
        one = whole._replace(client=np.array(owners, whole.client.dtype))
        predicted.write(one, CLASSES, tmp_path / f"{seed}" / predicted.NAME)
        runs.append([comparison.read([tmp_path / f"{seed}"])[0]])
    found = comparison.difference(runs, runs, "accuracy")
    assert found.by_seed == [0, 0]


def test_an_undefined_metric_is_a_dash_and_no_number():
    alone = predictions([1, 1, 1, 1])._replace(label=np.zeros(4, np.int32))
    assert comparison.scores([alone])["macro_auroc"] is None
    found = comparison.difference([[alone]], [[alone]], "macro_auroc")
    assert found.mean is None
    assert (comparison.in_words(found), comparison.spread([None, 0.5])) == ("-", "-")


def test_groups_are_the_last_column_and_are_read_again(tmp_path):
    one, group = predictions([1, 0, 1, 1]), np.array(["=L 1", "", "0.5", "=L 1"])
    file = tmp_path / "predictions.csv"
    predicted.write(one, CLASSES, file, group)
    header, *rows = csv.reader(file.read_text().splitlines())
    assert header == ["image", "client", "label", "predicted", *CLASSES, "group"]
    assert [row[-1] for row in rows] == ["'=L 1", "", "0.5", "'=L 1"]
    again = predicted.read_grouped(file)
    assert again.group.tolist() == group.tolist()
    assert again.class_names == CLASSES
    np.testing.assert_array_equal(again.predictions.probabilities, one.probabilities)
    assert predicted.read(file)[1] == CLASSES


@pytest.mark.parametrize("group", [None, np.array(["a", "", "a", "b"])])
def test_a_class_may_be_called_group(tmp_path, group):
    file = tmp_path / "predictions.csv"
    predicted.write(predictions([1, 0, 1, 1]), ("b", "group"), file, group)
    again = predicted.read_grouped(file)
    assert again.class_names == ("b", "group")
    assert again.predictions.label.tolist() == [0, 0, 1, 1]
    assert (again.group is None) == (group is None)


def test_images_of_a_group_widen_the_interval_of_a_difference():
    rng, many = np.random.default_rng(0), 12
    ones, others = [[predictions(rng.integers(0, 2, 4)) for _ in range(many)] for _ in range(2)]
    together = [
        Predictions(*(np.concatenate(column) for column in zip(*side, strict=True)))
        for side in (ones, others)
    ]
    together = [one._replace(image=np.arange(4 * many).astype(str)) for one in together]
    group = np.repeat([f"lesion {number}" for number in range(many)], 4)
    for name in metrics.HEADLINES:
        apart = comparison.difference([[together[0]]], [[together[1]]], name)
        grouped = comparison.difference([[together[0]]], [[together[1]]], name, group)
        assert grouped.mean == apart.mean
        assert np.diff(grouped.interval) > np.diff(apart.interval)


def test_folds_are_put_together_with_their_groups(tmp_path):
    whole, group = predictions([1, 0, 1, 1]), np.array(["x", "", "y", "z"])
    for fold, rows in enumerate(([3, 1], [2, 0])):
        part = Predictions(*(column[rows] for column in whole))
        predicted.write(part, CLASSES, tmp_path / f"{fold}" / predicted.NAME, group[rows])
    assert (
        comparison.read_grouped([tmp_path / "0", tmp_path / "1"]).group.tolist() == group.tolist()
    )


def test_figures_without_group_mates_are_those_of_the_other_images():
    one = predictions([1, 0, 1, 1])
    found = per_client.without_mates(
        one, np.array(["x", "", "y", "x"]), np.array([True, False, False, False])
    )
    assert found["mates_in_train"] == ["x/0.png"]
    rest = found["without_mates"]
    assert (rest["n"], rest["accuracy"], rest["balanced_accuracy"]) == (
        3,
        pytest.approx(2 / 3),
        0.5,
    )
    assert rest["macro_auroc"] == 0.5
    none = per_client.without_mates(one, np.array(["x"] * 4), np.ones(4, bool))
    assert none["without_mates"] == {"n": 0}
