import json

import numpy as np
import pytest
from PIL import Image

from fedjax_med.errors import UserError
from fedjax_med.evaluation import metrics, plots, tables

NAMES = ["melanoma", "nevus", "vascular lesion", "a class with a name " + "that is long " * 4]


def _evaluation(seed=0):
    """Four classes, the third without examples."""
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 1, 3], size=40)
    probabilities = generator.dirichlet(np.ones(4), size=40)
    return metrics.summarize(probabilities, labels, NAMES)


def _validation(loss):
    clients = {
        "n": [4, 0],
        "loss": [loss, None],
        "accuracy": [0.25, None],
        "balanced_accuracy": [0.75, None],
    }
    return {"loss": loss, "accuracy": 0.5, "balanced_accuracy": 0.4, "clients": clients}


def _records(losses=(2.0, 1.5, 1.2)):
    return [
        {"round": i, "train_loss": loss, "validation": _validation(loss + 0.1) if i != 1 else None}
        for i, loss in enumerate(losses)
    ]


def _pixels(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def _line(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return line.removeprefix(start).split()


def test_table_has_every_headline_with_its_interval():
    evaluation = _evaluation()
    text = tables.table(evaluation)
    for key, name in tables.HEADLINES.items():
        low, high = evaluation["intervals"][key]
        cells = _line(text, f"{name} ")
        assert cells == [f"{evaluation[key]:.3f}", f"{low:.3f}", "to", f"{high:.3f}"]


def test_table_has_every_class_and_marks_the_absent_one():
    evaluation = _evaluation()
    text = tables.table(evaluation)
    assert _line(text, "vascular lesion")[:2] == ["0", "absent"]
    row = evaluation["per_class"]["melanoma"]
    rates = [row["sensitivity"], row["specificity"], row["auroc"]]
    rates.append(row["sensitivity_at_90_specificity"])
    assert _line(text, "melanoma") == [str(row["support"]), *(f"{rate:.3f}" for rate in rates)]
    assert "nevus" in text
    assert "a class with a name that" in text
    assert "over the 3 classes with examples" in text


def test_table_has_the_intervals_of_the_classes_and_says_why_one_is_missing():
    evaluation = _evaluation()
    low, high = evaluation["per_class"]["melanoma"]["intervals"]["sensitivity"]
    assert _line(tables.table(evaluation), "  melanoma")[:3] == [f"{low:.3f}", "to", f"{high:.3f}"]
    assert "fewer than 5" not in tables.table(evaluation)
    evaluation["per_class"]["nevus"]["intervals"] |= {"sensitivity": None, "auroc": None}
    text = tables.table(evaluation)
    assert _line(text, "  nevus")[0] == _line(text, "  nevus")[-1] == "-"
    assert "  -: fewer than 5 images." in text.splitlines()


def test_an_evaluation_of_an_earlier_version_has_dashes():
    evaluation = _evaluation()
    for row in evaluation["per_class"].values():
        del row["intervals"]
    text = tables.table(evaluation)
    assert _line(text, "  nevus") == ["-", "-", "-"]
    assert "an earlier version" in text


def test_table_fits_a_hundred_columns():
    text = tables.table(_evaluation() | {"clients": _validation(1.0)["clients"]})
    assert max(map(len, text.splitlines())) <= 100


def test_temperature_that_rests_on_little_is_said():
    before = {"ece": 0.2, "brier": 0.5, "log_loss": 1.0}
    calibrated = _evaluation() | {"temperature": 0.97, "before_calibration": before}
    assert "Calibrated by temperature 0.97; before:" in tables.table(calibrated)
    assert "rests on little" not in tables.table(calibrated)
    doubtful = calibrated | {"calibration_doubt": "only 7 validation images"}
    assert "rests on little: only 7 validation images." in tables.table(doubtful)


def test_table_ends_with_a_row_for_each_client():
    text = tables.table(_evaluation() | {"clients": _validation(1.25)["clients"]})
    assert _line(text, "client 0") == ["4", "0.250", "0.750", "1.250"]
    assert _line(text, "client 1") == ["0", "-", "-", "-"]
    assert "client" not in tables.table(_evaluation())


def test_clients_with_names_are_called_by_them():
    named = _evaluation() | {
        "clients": {"n": [1, 2], "accuracy": [0, 1], "balanced_accuracy": [0, 1], "loss": [1, 2]},
        "client_names": ["Bern", "Zürich"],
    }
    lines = tables.table(named).splitlines()
    assert lines[-2].startswith("client 0 (Bern) ")
    assert lines[-1].startswith("client 1 (Zürich) ")


def test_markdown_gives_mean_and_sample_standard_deviation():
    evaluations = [_evaluation() | {"accuracy": value} for value in (0.5, 0.6, 0.7)]
    text = tables.markdown(evaluations)
    assert "| metric | mean ± sd (3 runs) |" in text
    assert "| accuracy | 0.600 ± 0.100 | 0.500 | 0.700 |" in text.splitlines()
    assert len(text.splitlines()) == 2 + len(tables.HEADLINES)


def test_markdown_of_one_run_has_no_deviation_and_of_none_is_refused():
    text = tables.markdown([_evaluation() | {"accuracy": 0.5, "macro_auroc": None}])
    assert "| accuracy | 0.500 | 0.500 | 0.500 |" in text
    assert "| macro AUROC | undefined in 1 of 1" in text
    with pytest.raises(UserError, match="at least one"):
        tables.markdown([])


def test_nothing_in_a_cell_of_a_markdown_table_ends_it():
    text = tables.markdown([_evaluation()], "runs of a|b")
    assert r"| mean ± sd (1 runs of a\|b) | lowest |" in text
    rows = tables.markdown_table(["a", "b"], [["x|y", ""], ["\\|", "1\n2\u20283"]]).splitlines()
    assert rows == ["| a | b |", "|---|---|", r"| x\|y | |", r"| \\\| | 1 2 3 |"]


def test_confusion_matrix_is_an_image_that_shows_the_counts(tmp_path):
    evaluation = _evaluation()
    # The same examples of each class, predicted otherwise.
    reversed_rows = [row[::-1] for row in evaluation["confusion_matrix"]]
    plots.confusion_matrix_png(evaluation, tmp_path / "a.png")
    plots.confusion_matrix_png(evaluation, tmp_path / "b.png")
    plots.confusion_matrix_png(evaluation | {"confusion_matrix": reversed_rows}, tmp_path / "c.png")
    first, again, other = (_pixels(tmp_path / f"{name}.png") for name in "abc")
    assert min(first.shape[:2]) > 300
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("classes", [2, 40, 41, 300])
def test_confusion_matrix_of_any_number_of_classes_has_one_size(tmp_path, monkeypatch, classes):
    written = []
    monkeypatch.setattr(plots, "_write_cells", lambda axes, counts, share: written.append(counts))
    matrix = np.diag(np.arange(classes))
    names = [f"class {k}" for k in range(classes)]
    evaluation = {"n": 9, "confusion_matrix": matrix, "per_class": dict.fromkeys(names)}
    plots.confusion_matrix_png(evaluation, tmp_path / "a.png")
    assert _pixels(tmp_path / "a.png").shape == (1040, 1196, 3)
    assert len(written) == (classes <= 40)


def test_class_names_are_drawn_as_they_are_written(tmp_path, recwarn):
    evaluation = _evaluation()
    names = ["cost $x", "a_b^c", "$\\frac{", "母斑", *evaluation["per_class"]]
    rows = dict(zip(names, evaluation["per_class"].values(), strict=False))
    plots.confusion_matrix_png(evaluation | {"per_class": rows}, tmp_path / "a.png")
    assert min(_pixels(tmp_path / "a.png").shape[:2]) > 300
    assert not recwarn.list


def _train_loss(record):
    record["train_loss"] = 1.4


def _client_loss(record):
    record["validation"]["clients"]["loss"][0] = 1.4


def _accuracy(record):
    record["validation"]["accuracy"] = 0.6


def _balanced_accuracy(record):
    record["validation"]["balanced_accuracy"] = 0.6


@pytest.mark.parametrize("change", [_train_loss, _client_loss, _accuracy, _balanced_accuracy])
def test_learning_curves_are_an_image_that_shows_each_quantity(tmp_path, change):
    records = _records()
    plots.learning_curves_png(records, tmp_path / "a.png")
    change(records[-1])
    plots.learning_curves_png(records, tmp_path / "b.png")
    first, other = _pixels(tmp_path / "a.png"), _pixels(tmp_path / "b.png")
    assert min(first.shape[:2]) > 300
    assert first.shape == other.shape
    assert (first != other).any()


def test_learning_curves_need_rounds_but_not_validation(tmp_path):
    plots.learning_curves_png([{"round": 0, "train_loss": 1.0}], tmp_path / "a.png")
    assert _pixels(tmp_path / "a.png").size
    with pytest.raises(UserError, match="at least one round"):
        plots.learning_curves_png([], tmp_path / "b.png")


def test_json_is_written_as_given(tmp_path):
    value = {"b": [1, 2.5, None], "a": "naïve"}
    tables.write_json(value, tmp_path / "value.json")
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert list(json.loads(text)) == ["b", "a"]
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    "name",
    ["\x9b2J", "\x85", "\x7f", "\u202egnp", "\u2066", "\u2069", "\u200b", "\U000e0041", "\udcff"],
)
def test_json_holds_no_character_that_acts_on_a_terminal(tmp_path, name):
    value = {f"Zürich {name}": [name]}
    tables.write_json(value, tmp_path / "value.json")
    text = (tmp_path / "value.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()
    assert "Zürich" in text


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_value_without_a_json_form_leaves_the_old_file_intact(tmp_path, value):
    path = tmp_path / "value.json"
    tables.write_json({"old": 1}, path)
    with pytest.raises((ValueError, TypeError)):
        tables.write_json({"new": value}, path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_failing_disk_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    tables.write_json({"old": 1}, path)

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(UserError, match=r"could not write .*value\.json: No space left"):
        tables.write_json({"new": 2}, path)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_missing_folder_is_made_and_an_impossible_one_is_one_clear_line(tmp_path):
    plots.confusion_matrix_png(_evaluation(), tmp_path / "new" / "a.png")
    with pytest.raises(UserError, match=r"could not write .*File exists"):
        plots.confusion_matrix_png(_evaluation(), tmp_path / "new" / "a.png" / "b.png")


def _many(loss, number=1000):
    """Clients whose values are 0 to 1 in even steps; one in ten has no examples."""
    known = [None if i % 11 == 0 else i % 101 / 100 for i in range(number)]
    clients = {"n": [6] * number, "loss": [loss] * number}
    clients |= {"accuracy": known, "balanced_accuracy": [None] * number}
    return _validation(loss) | {"clients": clients}


def test_of_many_clients_the_table_has_the_spread():
    text = tables.table(_evaluation() | {"clients": _many(1.5)["clients"]})
    for share in (10, 50, 90):
        n, accuracy, balanced, loss = _line(text, f"{share} % of 1,000 clients are below ")
        assert (n, balanced, loss) == ("6", "-", "1.500")
        assert float(accuracy) == pytest.approx(share / 100, abs=0.02)
    assert "client 0" not in text


def test_many_clients_are_drawn_as_a_band(tmp_path):
    few, many = tmp_path / "few.png", tmp_path / "many.png"
    records = [{"round": i, "train_loss": 1.0, "validation": _many(1.0 + i)} for i in (1, 2, 3)]
    plots.learning_curves_png(records, many)
    for record in records:
        del record["validation"]["clients"]
    plots.learning_curves_png(records, few)
    assert (_pixels(few) != _pixels(many)).any()


def test_table_has_the_figures_without_group_mates_in_train():
    rest = {"n": 12, "accuracy": 0.5, "balanced_accuracy": 0.25, "macro_auroc": None}
    limits = {
        "accuracy": [0.25, 0.75],
        "balanced_accuracy": [0.125, 0.5],
        "macro_auroc": [None] * 2,
    }
    groups = {"groups": 3, "images": 7, "mates_in_train": ["a/1.png", "a/2.png"]}
    evaluation = _evaluation() | {
        "groups": groups | {"without_mates": rest | {"intervals": limits}}
    }
    text = tables.table(evaluation)
    assert "7 of the images are in groups of two or more" in text
    assert "2 have a group mate in Train; 12 have none" in text
    after = text[text.index("without group mates in Train") :]
    assert _line(after, "balanced accuracy ") == ["0.250", "0.125", "to", "0.500"]
    assert _line(after, "macro AUROC ") == ["-", "-"]
    everyone = groups | {"without_mates": {"n": 0}}
    assert "0 have none" in tables.table(evaluation | {"groups": everyone})
