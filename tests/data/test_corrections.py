"""Labels are corrected by a table, before everything else; known errors are told without one."""

import json

import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data.audit import findings, labels
from fedjax_med.data.audit import report as audit_report
from fedjax_med.data.corrections import known, report, table
from fedjax_med.data.corrections.correct import correct
from fedjax_med.data.datasets import image_folder, isic9
from fedjax_med.errors import UserError
from fedjax_med.experiment import load_data, resolve
from fedjax_med.experiment.config import Experiment, Spec, to_dict
from fedjax_med.run import provenance

# A number is a picture, and the same number is the same bytes. "wart" is no class of its own: its
# images are moles, two of which (1, 4) also lie there; the mole 11 is a spot, and 12 both.
PUBLISHED = {
    "Train/mole": {"m1": 1, "m2": 2, "m3": 11, "m4": 12, "m5": 4},
    "Train/spot": {"s1": 21, "s2": 22, "s3": 12},
    "Train/wart": {"w1": 1, "w2": 3},
    "Test/mole": {"t1": 31},
    "Test/spot": {"t2": 32},
    "Test/wart": {"w3": 4},
}
TABLE = """image,label,basis
w1,mole,official: the archive
wart/w2.png,mole,inferred: as the others
Test/wart/w3.png,mole,official: the archive
m3,spot,official: the archive
m4,spot,inferred: also a spot
far_away,spot,official: the archive
"""


def picture(path, number):
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def drawn(root, folders):
    for folder, pictures in folders.items():
        for name, number in pictures.items():
            picture(root / folder / f"{name}.png", number)
    return root


@pytest.fixture
def published(tmp_path):
    return drawn(tmp_path / "data", PUBLISHED)


def build(root):
    return image_folder.build(str(root), str(root.parent / "cache"), 16)


def written(folder, text, name="table.csv"):
    (folder / name).write_text(text)
    return str(folder / name)


def corrected(root, text=TABLE):
    return correct(build(root), table.read(written(root.parent, text)))


def labels_of(split, class_names):
    named = zip(split.name.tolist(), split.label.tolist(), strict=True)
    return {name: class_names[label] for name, label in named}


def experiment(**changes):
    given = {"num_clients": 2, "image_size": 16, "validation_fraction": 0.0} | changes
    made = resolve.complete(Experiment(**given))
    resolve.settle(made)  # as every command does
    return made


def load(root, **changes):
    return load_data.load(experiment(**changes), str(root), str(root.parent / "cache"))


def refused(root, text):
    with pytest.raises(UserError) as error:
        corrected(root, text)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_images_that_rows_name_get_their_labels_in_train_and_test(published):
    dataset, changes = corrected(published)
    assert dataset.class_names == ("mole", "spot")
    assert labels_of(dataset.train, dataset.class_names) == {
        **{f"mole/{name}.png": "mole" for name in ("m1", "m2", "m5")},
        **{f"mole/{name}.png": "spot" for name in ("m3", "m4")},
        **{f"spot/{name}.png": "spot" for name in ("s1", "s2", "s3")},
        **{f"wart/{name}.png": "mole" for name in ("w1", "w2")},
    }
    assert set(labels_of(dataset.test, dataset.class_names).items()) == {
        ("mole/t1.png", "mole"),
        ("spot/t2.png", "spot"),
        ("wart/w3.png", "mole"),
    }
    assert dict(changes.counts) == {
        ("wart", "mole", "official"): 2,
        ("wart", "mole", "inferred"): 1,
        ("mole", "spot", "official"): 1,
        ("mole", "spot", "inferred"): 1,
    }
    assert changes.emptied == ("wart",)
    assert changes.without_image == 1


def test_images_stay_with_their_pixels_and_files(published):
    before, (after, _) = build(published), corrected(published)
    for split in ("train", "test"):
        old, new = getattr(before, split), getattr(after, split)
        place = {name: row for row, name in enumerate(old.name.tolist())}
        rows = [place[name] for name in new.name.tolist()]
        assert sorted(rows) == list(range(old.num_examples))
        np.testing.assert_array_equal(np.asarray(new.image), np.asarray(old.image)[rows])
        np.testing.assert_array_equal(new.sha256, old.sha256[rows])


def test_a_correction_reaches_copies_under_any_name(published):
    picture(published / "Train/wart/w1 (1).png", 1)
    picture(published / "Train/spot/s9.png", 3)
    picture(published / "Test/spot/t9.png", 3)
    dataset, changes = corrected(published)
    assert labels_of(dataset.test, dataset.class_names)["spot/t9.png"] == "mole"
    found = labels_of(dataset.train, dataset.class_names)
    assert found["wart/w1 (1).png"] == found["spot/s9.png"] == "mole"
    assert changes.emptied == ("wart",)


def test_corrected_cleans_as_rarest_does_after_the_correction(published):
    dataset, audit = labels.audited(build(published), table.read(written(published.parent, TABLE)))
    assert not audit.train_contradictions
    assert not audit.leaks_other_label
    dataset, _, line = labels.cleaned(dataset, audit, "corrected")
    assert sorted(dataset.train.name.tolist()) == [
        # w1 is m1, m4 is s3, and m5 is w3 of Test.
        *("mole/m1.png", "mole/m2.png", "mole/m3.png", "mole/m4.png"),
        *("spot/s1.png", "spot/s2.png", "wart/w2.png"),
    ]
    assert dataset.test.num_examples == 3
    assert "7 of 10 train images stay; left out: 1 copies of test images, 2 further copies" in line
    assert "5 labels changed: 3 wart -> mole (2 official, 1 inferred), 2 mole -> spot" in line
    assert "1 rows name no image here; without the class wart, which has no image left" in line
    assert "\n" not in line


def test_labels_that_still_contradict_are_settled_and_told(published):
    picture(published / "Train/mole/m9.png", 22)
    dataset, audit = labels.audited(build(published), table.read(written(published.parent, TABLE)))
    cleaned, _, line = labels.cleaned(dataset, audit, "corrected")
    assert "1 under a contradicted label" in line
    assert "mole/m9.png" not in cleaned.train.name.tolist()  # spot is the rarer class


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("w1,moel,x", "There is no 'moel' in the classes of the images"),
        ("w1,moel,x", "line 2"),
        ("w1,mole,x\nw1,spot,x", "line 2 says that 'w1' is 'mole', line 3 that 'w1'"),
        ("w1,mole,x\nm1,spot,x", "line 3 that 'm1', the same image, is 'spot'"),
        ("w1,mole,x\nwart/w1.png,spot,x", "'wart/w1.png', the same image"),
        ("w1,,x", "line 2: the label of 'w1' is missing"),
        ("w1,mole", "line 2: the basis of 'w1' is missing"),
        (",mole,x", "line 2: the image is missing"),
        ("nowhere,mole,x", "names no image of the data set: it lists nowhere; the data set has"),
        ("", "has no rows"),
    ],
)
def test_a_row_that_cannot_be_meant_is_told_in_one_line(published, rows, said):
    assert said in refused(published, f"image,label,basis\n{rows}\n")


def test_a_missing_column_and_a_missing_file_are_told(published):
    assert "There is no 'basis' in the columns of" in refused(published, "image,label\nw1,mole\n")
    with pytest.raises(UserError, match=r"no\.csv cannot be read: No such file.*image, label, b"):
        table.read(str(published / "no.csv"))
    with pytest.raises(UserError, match=r"no 'isic8' in the tables of corrections.*'isic9'"):
        table.read("isic8")


def test_a_name_of_two_different_images_needs_its_folder(published):
    picture(published / "Train/spot/m3.png", 99)
    said = refused(published, TABLE)
    assert "line 5: 'm3' may be train/mole/m3.png or train/spot/m3.png" in said
    dataset, _ = corrected(published, TABLE.replace("m3,", "mole/m3,"))
    found = labels_of(dataset.train, dataset.class_names)
    assert found["mole/m3.png"] == found["spot/m3.png"] == "spot"
    picture(published / "Test/mole/m3.png", 98)
    assert "test/mole/m3.png" in refused(published, TABLE.replace("m3,", "mole/m3,"))
    full = f"{published}/Train/MOLE/M3.png"
    dataset, _ = corrected(published, TABLE.replace("m3,", f"{full},"))
    assert labels_of(dataset.test, dataset.class_names)["mole/m3.png"] == "mole"


def test_hospitals_folders_are_corrected_alike(tmp_path):
    root = drawn(
        tmp_path / "data",
        {
            "Graz/mole": {"a": 1, "b": 2},
            "Graz/spot": {"a": 3},
            "Lyon/mole": {"a": 5},
            "Lyon/spot": {"b": 6, "c": 7},
            "test/spot": {"d": 8},
        },
    )
    rows = "image,label,basis\nLyon/mole/a,spot,x\nd,mole,y\n"
    data = load(root, policy="corrected", corrections=written(tmp_path, rows), num_clients=0)
    assert data.names == ("Graz", "Lyon")
    assert data.train.sizes.tolist() == [3, 3]
    assert data.class_counts.tolist() == [2, 4]
    assert data.test.label.tolist() == [0]
    with pytest.raises(UserError, match=r"Graz/mole/a\.png or Graz/spot/a\.png"):
        correct(build(root), table.read(written(tmp_path, "image,label,basis\na,spot,x\n")))


def test_the_policy_needs_a_table_and_a_table_the_policy():
    with pytest.raises(UserError, match=r"needs a table of corrections: give .*=FILE.*=isic9"):
        experiment(policy="corrected")
    with pytest.raises(UserError, match=r"is for --config\.policy=corrected, and.*'keep'"):
        experiment(policy="keep", corrections="isic9")


def test_the_run_is_that_of_its_table_wherever_it_lies(published, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    tables = {
        "first": written(tmp_path, TABLE),
        "moved": written(tmp_path / "elsewhere", TABLE),
        "other labels": written(tmp_path, f"{TABLE}s1,mole,x\n", "labels.csv"),
        "other reasons": written(tmp_path, TABLE.replace("also", "rather"), "reasons.csv"),
    }
    saved = {}
    for name, path in tables.items():
        chosen = {"policy": "corrected", "corrections": path}
        data = load(published, **chosen)
        assert data.findings.corrections.sha256 == table.read(path).sha256
        saved[name] = {"experiment": to_dict(experiment(**chosen)), "data": data.digest}
    first = saved.pop("first")
    assert provenance.differences(first, saved.pop("moved")) == []
    for other in saved.values():
        assert provenance.differences(first, other) == [
            "the train images, their labels or their division over the clients differ"
        ]


def test_the_audit_lists_what_changes(published, tmp_path, capsys):
    out = tmp_path / "audit.json"
    command = ["audit", f"--data_dir={published}", f"--cache_dir={tmp_path / 'cache'}"]
    command += [f"--out={out}", "--config.image_size=16", "--config.policy=corrected"]
    assert cli.main(command) == 2
    assert "needs a table of corrections" in capsys.readouterr().err
    path = written(tmp_path, TABLE)
    assert cli.main([*command, f"--config.corrections={path}"]) == 0
    printed = capsys.readouterr().out
    assert f"    5  labels changed by the corrections {path}\n" in printed
    assert "        2  wart -> mole (official)\n" in printed
    assert "no image is left of wart: without this class\n" in printed
    assert "test: wart/w3.png -> mole (official: the archive)" in printed
    assert "Policy corrected: 7 of 10 train images stay" in printed
    assert "Policy rarest" not in printed
    content = json.loads(out.read_text())
    assert [one["name"] for one in content["classes"]] == ["mole", "spot"]
    found = content["corrections"]
    assert (found["count"], found["applied"], found["rows_without_image"]) == (5, True, 1)
    assert {"before": "wart", "after": "mole", "basis": "official", "count": 2} in (
        found["by_classes"]
    )
    assert found["sha256"] == table.read(path).sha256
    assert len(found["images"]) == 5


def test_a_partition_is_written_by_the_right_labels_and_trains_the_same(published, tmp_path):
    cache = f"--cache_dir={tmp_path / 'cache'}"
    flags = ["--config.image_size=16", "--config.policy=corrected", "--config.num_clients=2"]
    flags += [f"--config.corrections={written(tmp_path, TABLE)}"]
    out = tmp_path / "out"
    assert cli.main(["partition", f"--data_dir={published}", f"--out={out}", cache, *flags]) == 0
    assert not list(out.glob("*/wart"))
    assert (out / "test/mole/w3.png").exists()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["corrections"]["sha256"] == table.read(str(tmp_path / "table.csv")).sha256
    assert all(one["label"] == one["path"].split("/")[1] for one in manifest["files"])
    chosen = {"policy": "corrected", "corrections": str(tmp_path / "table.csv")}
    there, here = load(out, **chosen), load(published, **chosen)
    assert there.digest == here.digest
    assert there.test_digest == here.test_digest
    assert there.findings.corrections.changed == ()


def test_two_images_that_corrections_give_one_name_are_not_overwritten(published, tmp_path, capsys):
    picture(published / "Test/spot/m3.png", 97)
    picture(published / "Test/mole/m3.png", 96)
    rows = "image,label,basis\ntest/mole/m3,spot,x\n"
    flags = ["--config.image_size=16", "--config.policy=corrected", "--config.num_clients=2"]
    flags += [f"--config.corrections={written(tmp_path, rows)}", f"--out={tmp_path / 'out'}"]
    flags += [f"--data_dir={published}", f"--cache_dir={tmp_path / 'cache'}"]
    assert cli.main(["partition", *flags]) == 2
    assert "test/spot/m3.png would be two images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_known_data_set_is_told_and_no_other(published, tmp_path, monkeypatch):
    monkeypatch.setitem(table.SHIPPED, "toy", tmp_path / "table.csv")
    written(tmp_path, TABLE.replace("Test/wart/", "").replace("wart/w2.png", "w2"))
    found = known.wrong_labels(build(published))
    assert found.table == "toy"
    assert not found.applied
    assert len(found.changed) == 5
    assert "no image is left" not in "".join(report.lines(found))
    assert report.warning(found) == (
        "Warning: 5 labels of these images are known to be wrong: 3 wart -> mole (2 official, "
        "1 inferred), 2 mole -> spot (1 official, 1 inferred). --config.policy=corrected "
        "--config.corrections=toy corrects them."
    )
    # What the policy mends is not told.
    summary = load(published).summary.splitlines()
    assert len(summary) == 2
    assert summary[1].startswith("Warning: 4 labels of these images are known to be wrong: ")
    content = audit_report.to_json(load(published).findings)["corrections"]
    assert (content["applied"], content["count"]) == (False, 4)
    right = load(published, policy="corrected", corrections="toy")
    assert "Warning" not in right.summary
    other = drawn(tmp_path / "other", {"Train/mole": {"x": 1}, "Train/spot": {"w1": 2, "y": 4}})
    assert known.wrong_labels(build(other)) is not None  # one of six: a hospital's part
    (other / "Train/mole").rename(other / "Train/else")
    assert known.wrong_labels(build(other)) is None  # other classes


def test_folders_that_a_correction_has_left_may_lack_a_class(tmp_path):
    classes = [name for name in isic9.CLASS_NAMES if name != "seborrheic keratosis"]
    root = drawn(tmp_path / "data", {f"client_0/{name}": {"a": 1} for name in classes})
    with pytest.raises(UserError, match="lacks the class 'seborrheic keratosis'"):
        isic9.scan(str(root))
    written(root, "{}", "manifest.json")
    assert isic9.scan(str(root)).class_names == tuple(classes)
    picture(root / "client_0/wart/a.png", 1)
    with pytest.raises(UserError, match="has the further class 'wart'"):
        isic9.scan(str(root))


@pytest.mark.slow
def test_a_run_records_its_table_and_is_resumed_with_no_other(published, tmp_path, capsys):
    flags = ["--config.rounds=1", "--config.image_size=16", "--config.num_clients=1"]
    flags += ["--config.model.name=linear", "--config.policy=corrected", "--evaluate"]
    flags += [f"--data_dir={published}", f"--cache_dir={tmp_path / 'cache'}"]
    flags += [f"--workdir={tmp_path / 'run'}", "--config.validation_fraction=0.2"]
    path = written(tmp_path, TABLE)
    assert cli.main(["train", *flags, f"--config.corrections={path}"]) == 0
    assert "5 labels changed: 3 wart -> mole" in capsys.readouterr().out
    saved = json.loads((tmp_path / "run/experiment.json").read_text())
    assert saved["corrections"] == {"table": path, "sha256": table.read(path).sha256}
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert {name: row["support"] for name, row in evaluation["per_class"].items()} == {
        "mole": 2,
        "spot": 1,
    }
    predicted = (tmp_path / "run/predictions.csv").read_text().splitlines()
    assert any(line.startswith("wart/w3.png,,mole,") for line in predicted), predicted
    other = written(tmp_path, f"{TABLE}s1,mole,x\n", "other.csv")
    assert cli.main(["train", *flags, f"--config.corrections={other}"]) == 2
    assert "their labels or their division over the clients differ" in capsys.readouterr().err


@pytest.mark.real_data
def test_the_real_set_has_eight_classes(isic9_dir, tmp_path):
    chosen = {"policy": "corrected", "corrections": "isic9", "num_clients": 5}
    folder = Spec("isic9")
    data = load_data.divide(
        experiment(dataset=folder, image_size=64, **chosen), str(isic9_dir), str(tmp_path)
    )
    dataset = data.dataset
    assert dataset.class_names == tuple(
        name for name in isic9.CLASS_NAMES if name != "seborrheic keratosis"
    )
    train, test = (np.bincount(of.label).tolist() for of in (dataset.train, dataset.test))
    assert train == [115, 376, 95, 436, 278, 462, 181, 139]
    assert test == [16, 16, 16, 19, 16, 16, 16, 3]
    assert dict(data.findings.corrections.counts) == {
        ("seborrheic keratosis", "melanoma", "official"): 26,
        ("seborrheic keratosis", "melanoma", "inferred"): 54,
        ("nevus", "actinic keratosis", "official"): 76,
        ("nevus", "actinic keratosis", "inferred"): 2,
    }
    assert data.findings.corrections.without_image == 0
    groups = findings.find(dataset)
    assert not groups.train_contradictions
    assert not groups.train_copies
    as_published = load_data.divide(
        experiment(dataset=folder, image_size=64, num_clients=5), str(isic9_dir), str(tmp_path)
    )
    assert np.bincount(as_published.dataset.train.label).tolist() == [
        *(114, 376, 95, 359, 279, 462, 77, 181, 139)
    ]
    told = report.warning(as_published.findings.corrections)
    assert "80 seborrheic keratosis -> melanoma" in told
    assert "--config.policy=corrected --config.corrections=isic9" in told
