"""Images from anywhere are predicted; what is none gets a row that says why."""

import csv
import io
import json

import bundles
import jax
import numpy as np
import pytest
from PIL import Image

from fedjax_med.artifact import bundle, images, predict
from fedjax_med.cli import main as cli
from fedjax_med.client import augmentation
from fedjax_med.errors import UserError
from fedjax_med.evaluation import calibration


@pytest.fixture
def model(tmp_path):
    """A bundle of an untrained network with a temperature."""
    bundles.write(tmp_path / "model", temperature=2.0)
    return bundle.read(tmp_path / "model")


@pytest.fixture
def folder(tmp_path):
    """Two images, one of them below, and three files that are none."""
    place = tmp_path / "images"
    (place / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("b.png", "below/a.png"):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(place / name)
    (place / "=broken.jpg").write_bytes(b"no image")
    (place / "small.png").write_bytes(png(4))
    (place / "notes.txt").touch()
    (place / ".hidden.png").touch()
    return place


def png(side):
    out = io.BytesIO()
    Image.new("RGB", (side, side)).save(out, "PNG")
    return out.getvalue()


def run(model, folder, out, *flags):
    command = ["predict", f"--model={model.folder}", f"--images={folder}", f"--out={out}"]
    return cli.main([*command, *flags])


def test_probabilities_are_the_mean_over_views_scaled_by_the_temperature(model, folder):
    (file,) = images.listing(folder / "b.png").files
    found = predict.predict_files(model, [file])
    pixels = np.asarray(Image.open(folder / "b.png"))[None]
    normalised = augmentation.normalise(pixels, model.model.mean, model.model.std, 0.0)
    each = [
        jax.nn.softmax(
            model.model.apply(model.params, augmentation.mirrored(normalised, view), None)
        )
        for view in (0, 1)
    ]
    expected = calibration.scale(np.asarray(sum(each)) / 2, 2.0)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5)
    assert found.errors == [""]


def test_every_file_has_its_row_and_what_is_no_image_says_why(model, folder, tmp_path, capsys):
    assert run(model, folder, tmp_path / "out.csv") == 0
    with (tmp_path / "out.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["file", "predicted", "p_nevus", "p_melanoma", "p_a, b", "error"]
    assert [row[0] for row in rows] == ["'=broken.jpg", "b.png", "below/a.png", "small.png"]
    assert [row[-1] for row in rows] == [
        "not an image of a known format",
        "",
        "",
        "4 x 4 pixels\\x3b expected at least 16 on the shorter side",
    ]
    for row in rows:
        numbers = row[2:5]
        assert row[1] in (bundles.NAMES if not row[-1] else [""])
        assert numbers == [""] * 3 if row[-1] else abs(sum(map(float, numbers)) - 1) < 1e-6
    said = capsys.readouterr().out
    assert "b.png: " in said
    assert "2 images predicted, 2 unreadable." in said
    assert "1 other files there are no images by their names" in said


def test_json_has_the_same_numbers(model, folder, tmp_path):
    assert run(model, folder, tmp_path / "out.csv") == 0
    assert run(model, folder, tmp_path / "out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    assert (found["temperature"], found["tta_views"]) == (2.0, 2)
    known = [one for one in found["images"] if "error" not in one]
    assert [one["file"] for one in known] == ["b.png", "below/a.png"]
    for one in known:
        row = rows[one["file"]]
        assert one["predicted"] == row["predicted"]
        expected = {name: float(row[f"p_{name}"]) for name in bundles.NAMES}
        assert one["probabilities"] == expected


def test_a_file_alone_is_read_whatever_its_name(model, folder, tmp_path):
    (folder / "b.png").rename(folder / "b.dat")
    assert run(model, folder / "b.dat", tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("b.dat,")


def test_all_files_may_be_unreadable(model, folder, tmp_path, capsys):
    for file in ("b.png", "below/a.png"):
        (folder / file).write_bytes(b"x")
    assert run(model, folder, tmp_path / "out.csv") == 0
    assert "0 images predicted, 4 unreadable." in capsys.readouterr().out


def test_blocks_of_images_are_put_together_in_order(model, folder, monkeypatch):
    files = images.listing(folder).files
    whole = predict.predict_files(model, files)
    monkeypatch.setattr(images, "_BLOCK", 1)
    each = predict.predict_files(model, files)
    assert each.errors == whole.errors
    np.testing.assert_allclose(each.probabilities, whole.probabilities, rtol=1e-6)


def test_levels_of_more_than_8_bits_are_told(model, tmp_path):
    (tmp_path / "deep").mkdir()
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    Image.fromarray(levels).save(tmp_path / "deep" / "one.png")
    floats = Image.fromarray(levels.astype(np.float32))
    floats.save(tmp_path / "deep" / "two.tiff")
    found = predict.predict_files(model, images.listing(tmp_path / "deep").files)
    assert found.errors[0] == ""
    assert "floating-point grey levels" in found.errors[1]
    assert "0 to 4095 (black to white), the power of two" in found.notes[0]


def test_mistakes_are_told_before_an_image_is_read(model, folder, tmp_path, capsys):
    for images_, out, message in (
        (folder, tmp_path / "o.txt", "expected --out=FILE.csv or FILE.json"),
        (folder, tmp_path, "expected --out=FILE.csv or FILE.json"),
        (tmp_path / "none", tmp_path / "o.csv", "there is no such file or folder"),
        (tmp_path / "model", tmp_path / "o.csv", "no image is there"),
    ):
        assert run(model, images_, out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "o.csv").exists()


def test_a_model_that_computes_nan_is_no_success(tmp_path, folder):
    _, params = bundles.write(tmp_path / "one")
    huge = jax.tree.map(lambda leaf: leaf * 0 + 3e38, params)
    bundles.write(tmp_path / "two", params=huge)
    found = bundle.read(tmp_path / "two")
    with pytest.raises(UserError, match="computes NaN or infinity"):
        predict.predict_files(found, images.listing(folder).files)
