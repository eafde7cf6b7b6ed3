"""A bundle is evaluated on images from outside; nothing of them is dropped in silence."""

import json
import shutil

import bundles
import numpy as np
import pytest
from PIL import Image

from fedjax_med.artifact import bundle, outside
from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.evaluation import metrics, predictions

POINT = {"threshold": 0.25, "validation_others": 200, "reason": None}
OPERATING = {"specificity": 0.9, "prevalence": 0.0, "classes": {"melanoma": POINT}}


@pytest.fixture
def model(tmp_path):
    """A bundle of nevus, melanoma and "a, b"."""
    bundles.write(tmp_path / "model", operating=OPERATING)
    return tmp_path / "model"


def fill(folder, counts):
    """Write as many images into each class's folder."""
    rng = np.random.default_rng(1)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (16, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def run(model, data, out, *flags):
    places = [f"--model={model}", f"--data_dir={data}", f"--out={out}"]
    return cli.main(["evaluate", *places, *flags])


def test_figures_are_those_of_the_predictions_and_what_is_left_out_is_counted(
    model, tmp_path, capsys
):
    data = fill(tmp_path / "data", {"nv": 5, "Melanoma": 4, "mole": 3, "empty": 0})
    (data / "nv" / "broken.jpg").write_bytes(b"x")
    fill(data / "nv", {"below": 2})
    shutil.copy(data / "nv" / "0.png", data)
    before = sorted(path for path in model.iterdir())
    assert run(model, data, tmp_path / "out", "--map=nv:nevus") == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    read, names = predictions.read(tmp_path / "out" / "predictions.csv")
    assert names == ("nevus", "melanoma", "a, b")
    assert read.image.tolist() == [f"Melanoma/{i}.png" for i in range(4)] + [
        f"nv/{i}.png" for i in range(5)
    ]
    assert read.label.tolist() == [1] * 4 + [0] * 5
    right = float((read.probabilities.argmax(axis=1) == read.label).mean())
    assert found["accuracy"] == right
    whole = metrics.summarize(read.probabilities, read.label, names)
    assert found["per_class"].keys() == whole["per_class"].keys()
    assert found["confusion_matrix"] == whole["confusion_matrix"]
    assert found["absent_classes"] == ["a, b"]
    called = read.probabilities[:4, 1] >= 0.25
    assert found["operating"]["classes"]["melanoma"]["sensitivity"] == called.mean()
    assert found["folders"] == {"Melanoma": "melanoma", "nv": "nevus"}
    assert found["unknown_classes"] == {"empty": 0, "mole": 3}
    assert found["unreadable"][0]["file"] == "nv/broken.jpg"
    assert found["other_depth"] == 3
    said = capsys.readouterr().out
    assert "Left out: 3 images of classes that the bundle does not know: mole (3)." in said
    assert "Unreadable: 1 files (nv/broken.jpg: not an image of a known format)." in said
    assert "Left out: 3 images that are not directly in a class's folder." in said
    assert sorted(path for path in model.iterdir()) == before


def test_images_may_be_below_test_and_train_is_not_looked_at(tmp_path):
    data = fill(tmp_path, {"test/nevus": 2, "Train/nevus": 3})
    found = outside.scan(data, ["melanoma", "nevus"])
    assert [(one.name, one.label) for one in found.files] == [
        ("nevus/0.png", 1),
        ("nevus/1.png", 1),
    ]


def test_several_folders_may_be_one_class_and_a_name_may_be_overruled(tmp_path):
    data = fill(tmp_path, {"nevus": 1, "naevus, old": 1, "melanoma": 1})
    found = outside.scan(data, ["melanoma", "nevus"], '"naevus, old:nevus",melanoma:nevus')
    assert found.classes == dict.fromkeys(("melanoma", "naevus, old", "nevus"), "nevus")
    assert [one.label for one in found.files] == [1, 1, 1]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("nv=nevus", "expected --map=FOLDER:CLASS,FOLDER:CLASS, got 'nv=nevus'"),
        ("nevus:nv", "got 'nevus:nv' in it, a class and a folder: write 'nv:nevus'."),
        ("nw:nevus", "There is no 'nw' in the folders of --data_dir, for --map. Did you mean 'nv'"),
        ("nv:naevus", "in the classes of the bundle, for --map. Did you mean 'nevus'?"),
        ("", "has no image of a class of the bundle (melanoma, nevus)"),
    ],
)
def test_mistakes_in_the_mapping_are_told(tmp_path, mapping, message):
    with pytest.raises(UserError) as told:
        outside.scan(fill(tmp_path, {"nv": 1}), ["melanoma", "nevus"], mapping)
    assert message in str(told.value)


def test_images_without_class_folders_are_sent_one_folder_up(tmp_path):
    with pytest.raises(UserError, match=r"got the folders none.*give the folder above"):
        outside.scan(fill(tmp_path, {"nv": 1}) / "nv", ["melanoma", "nevus"])


def test_a_run_and_a_bundle_are_never_written_to(model, tmp_path, capsys):
    data = fill(tmp_path / "data", {"nevus": 1})
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "experiment.json").write_text("{}")
    for out, message in (
        (workdir, "is the workdir of a run, which stays as it is"),
        (model, "is the bundle, which stays as it is"),
        (data / "nevus" / "0.png", "is a file"),
    ):
        assert run(model, data, out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert [path.name for path in workdir.iterdir()] == ["experiment.json"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=m", "--workdir=w"], "expected either --workdir (with --checkpoint) or --model"),
        (["--model=m", "--out=o"], "expected --data_dir=FOLDER, the images by class, and --out="),
        (["--workdir=w", "--out=o"], "--out and --map go with --model=BUNDLE"),
        (["--workdir=w", "--map=a:b"], "--out and --map go with --model=BUNDLE"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message, capsys):
    assert cli.main(["evaluate", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_a_readable_image_there_are_no_figures(model, tmp_path, capsys):
    data = fill(tmp_path / "data", {"nevus": 0})
    (data / "nevus" / "a.png").write_bytes(b"x")
    assert run(model, data, tmp_path / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none of the 1 images can be read: nevus/a.png not an image of a known format." in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"classes": {"melanoma": {**POINT, "threshold": 2}}},
        {"classes": {"lion": POINT}},
        {"classes": []},
        {"classes": {"melanoma": {}}},
        {"specificity": "high"},
        {"specificity": 2.0},
    ],
)
def test_damaged_operating_points_are_refused(tmp_path, change):
    bundles.write(tmp_path / "model")
    found = bundle.read(tmp_path / "model")
    found.info["operating"] = OPERATING | change
    with pytest.raises(UserError):
        outside.thresholds(found)
