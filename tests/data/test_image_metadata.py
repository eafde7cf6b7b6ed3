"""A table that says more of the images: its columns, and the diagnoses that contradict labels."""

import json

import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data import metadata
from fedjax_med.data.audit import diagnoses
from fedjax_med.data.datasets import image_folder
from fedjax_med.errors import UserError
from fedjax_med.experiment import load_data, resolve
from fedjax_med.experiment.audited import audited
from fedjax_med.experiment.config import Experiment, Metadata, Spec

IMAGES = ("Train/mole/1", "Train/mole/2", "Train/mole/3", "Train/spot/4", "Train/spot/5")
IMAGES += ("Test/mole/6", "Test/spot/7")
TABLE = """name;lesion_id;archive;verdict
1.png;L1;north;NV
2;L1;north;NV
folder/3.PNG;;south;SP
4;L2;;SP
5;L3;south;Spot
6;L4;south;SP
elsewhere;L9;east;NV
"""


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(IMAGES):
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def build(folder):
    return image_folder.build(str(folder), str(folder.parent / "cache"), 16)


def read(folder, text=TABLE, image="name", **columns):
    (folder.parent / "table.csv").write_text(text)
    columns = columns or {"lesion": "lesion_id", "source": "archive", "diagnosis": "Verdict"}
    return metadata.read(str(folder.parent / "table.csv"), image, columns, build(folder))


def test_columns_are_found_by_the_names_of_the_images(folder):
    found = read(folder)
    assert found.train == {
        "lesion": ["L1", "L1", "", "L2", "L3"],
        "source": ["north", "north", "south", "", "south"],
        "diagnosis": ["NV", "NV", "SP", "SP", "Spot"],
    }
    assert found.test["diagnosis"] == ["SP", ""]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (TABLE, {"lesion": "lesion"}, "There is no 'lesion' in the columns of"),
        (TABLE, {"lesion": "lesion"}, "(set --config.metadata.lesion to the right one)"),
        (TABLE, {"image": "file", "lesion": "lesion_id"}, "--config.metadata.image to the right"),
        (f"{TABLE}2.png;L2;north;NV\n", {}, "lines 3 and 9 are about the image '2.png' and differ"),
        ("name;lesion_id;archive;verdict\nx;1;1;1\n", {}, "lists no image of the data set: it has"),
    ],
)
def test_a_table_that_does_not_fit_is_told_in_one_line(folder, text, options, said):
    with pytest.raises(UserError) as error:
        read(folder, text, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_one_image_that_agree_are_one(folder):
    assert read(folder, f"{TABLE}2;L1;north;NV\n2.png;L1;north;NV\n") == read(folder)


def test_a_diagnosis_is_its_name_or_the_class_of_most_of_its_images(folder):
    found = diagnoses.compare(build(folder), read(folder))
    # SP: two moles and one spot, so mostly moles; what is called like a class is this class.
    assert dict(found.meaning) == {"NV": "mole", "SP": "mole", "Spot": "spot"}
    assert [one.name for one in found.contradictions] == ["spot/4.png"]
    assert dict(found.counts) == {
        ("mole", "NV"): 2,
        ("mole", "SP"): 2,
        ("spot", "SP"): 1,
        ("spot", "Spot"): 1,
        ("spot", ""): 1,
    }


def test_a_diagnosis_of_as_many_images_in_two_classes_contradicts_none(folder):
    found = diagnoses.compare(build(folder), read(folder, TABLE.replace("\n6;", "\n60;")))
    assert dict(found.meaning)["SP"] == ""
    assert found.contradictions == ()


def experiment(path, **columns):
    made = Experiment(num_clients=1, image_size=16, metadata=Metadata(str(path), "name", **columns))
    made = resolve.complete(made)
    resolve.settle(made)  # as every command does
    return made


def test_fields_that_do_not_go_together_are_told(tmp_path):
    with pytest.raises(UserError, match=r"metadata\.lesion names a column.*metadata\.path=FILE"):
        experiment("", lesion="lesion_id")
    with pytest.raises(UserError, match=r"needs --config\.metadata\.image and a column: set .*sou"):
        experiment(tmp_path / "table.csv")


def test_the_audit_and_the_run_tell_of_labels_that_contradict(folder, tmp_path, capsys):
    (tmp_path / "table.csv").write_text(TABLE)
    out = tmp_path / "audit.json"
    flags = [f"--data_dir={folder}", f"--cache_dir={tmp_path / 'cache'}", f"--out={out}"]
    columns = {"path": tmp_path / "table.csv", "image": "name", "diagnosis": "verdict"}
    flags += [f"--config.metadata.{name}={value}" for name, value in columns.items()]
    assert cli.main(["audit", *flags, "--config.image_size=16"]) == 0
    printed = capsys.readouterr().out
    assert f"    1  labels contradict the diagnoses of {columns['path']}\n" in printed
    assert "        1  spot, diagnosis SP: mole\n" in printed
    assert "  class       SP     NV   Spot   none\n" in printed
    assert "  spot         1      0      1      1\n" in printed
    found = json.loads(out.read_text())["diagnoses"]
    assert found["count"] == 1
    assert found["images"][0]["name"] == "spot/4.png"
    told = load_data.load(
        experiment(columns["path"], diagnosis="verdict"), str(folder), str(tmp_path / "cache")
    ).summary
    assert "1 labels contradict the diagnoses of" in told
    lesions = experiment(columns["path"], lesion="lesion_id")
    assert audited(lesions, lambda: build(folder))[1].diagnoses is None
    with pytest.raises(UserError, match="There is no 'lesoin' in the columns of"):
        audited(experiment(columns["path"], lesion="lesoin"), lambda: build(folder))


@pytest.mark.real_data
def test_the_real_set_contradicts_its_diagnoses(isic9_dir, tmp_path):
    """The table is beside the images, and no part of the project."""
    table = isic9_dir.parent / "isic9_metadata.csv"
    if not table.exists():
        pytest.skip(f"there is no {table}")
    columns = Metadata(str(table), diagnosis="official_diagnosis", lesion="lesion")
    made = Experiment(dataset=Spec("isic9"), num_clients=5, image_size=64, metadata=columns)
    made = resolve.complete(made)
    _, audit = audited(made, lambda: load_data.read(made, str(isic9_dir), str(tmp_path)))
    found = audit.diagnoses
    assert dict(found.meaning)["AK"] == "actinic keratosis"
    assert dict(found.meaning)["MEL"] == "melanoma"
    kinds = [(one.label, one.diagnosed) for one in found.contradictions]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        ("nevus", "actinic keratosis"): 76,
        ("seborrheic keratosis", "melanoma"): 26,
    }
    counts = dict(found.counts)
    assert counts["seborrheic keratosis", "MEL"] == 26
    assert counts["seborrheic keratosis", ""] == 54
