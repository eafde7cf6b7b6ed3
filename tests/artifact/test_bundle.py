"""A bundle is read as it was written, or refused in one line."""

import hashlib
import json
import os

import bundles
import jax
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from fedjax_med.artifact import bundle, card, form, tensors
from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Experiment, Spec


@pytest.fixture
def written(tmp_path):
    """The folder of a bundle."""
    bundles.write(tmp_path / "bundle")
    return tmp_path / "bundle"


def sign(folder, **changes):
    """Change bundle.json, and give it the SHA-256 of the files as they are now."""
    info = json.loads((folder / "bundle.json").read_text()) | changes
    for name in info["files"]:
        info["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(info))


def refused(folder, **options):
    with pytest.raises(UserError) as told:
        bundle.read(folder, **options)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_is_read_is_what_was_written(tmp_path):
    _, params = bundles.write(tmp_path / "one", temperature=1.5)
    found = bundle.read(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        ["bundle.json", "model.safetensors", "README.md"]
    )
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.class_names == ("nevus", "melanoma", "a, b")
    assert (found.info["temperature"], found.frozen) == (1.5, None)
    assert "model/classifier/kernel" in load_file(tmp_path / "one" / "model.safetensors")
    assert not list(tmp_path.glob(".*"))  # nothing is left of what was written beside it


@pytest.mark.parametrize("name", ["model.safetensors", "README.md", "bundle.json"])
def test_a_missing_file_is_named(written, name):
    (written / name).unlink()
    assert name in refused(written)


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
def test_a_changed_byte_and_a_lost_end_are_damage(written, name):
    whole = (written / name).read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], b""):
        (written / name).write_bytes(damaged)
        assert f"{name} is damaged or was changed after export" in refused(written)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "expected a JSON object"),
        ("{}", "of version 1, got 'None' of version None"),
        ("[" * 10_000, "cannot be read"),
    ],
)
def test_a_damaged_description_is_refused(written, text, message):
    (written / "bundle.json").write_text(text)
    assert message in refused(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "expected 'fedjax_med bundle' of version 1, got"),
        ({"class_names": ["a", "a", "b"]}, "class names that differ"),
        ({"class_names": []}, "from 1 to 10,000 classes"),
        ({"class_names": [1, 2, 3]}, "class names"),
        ({"experiment": []}, "experiment is not what"),
        ({"experiment": {"name": "x" * 2**16}}, "at most 65,536 characters"),
        ({"experiment": {"later": 1}}, "has a field 'later'"),
        ({"tta_views": 3}, "tta_views of 1, 2, 4 or 8"),
        ({"tta_views": True}, "tta_views of 1, 2, 4 or 8"),
        ({"temperature": 0}, "a temperature above 0"),
        ({"temperature": float("nan")}, "a temperature above 0"),
        ({"preprocessing": {"image_size": 10**6, "crop": "pad"}}, "image_size from 1 to 4096"),
        ({"preprocessing": {"image_size": 16, "crop": "round"}}, "a crop of centre, pad, stretch"),
        ({"preprocessing": {"image_size": 32, "crop": "pad"}}, "preprocessing is not that of"),
        ({"preprocessing": {"image_size": 16, "crop": "pad"}}, "preprocessing is not that of"),
        ({"class_names": ["a", "b", "c", "d"]}, "is float32 ("),
    ],
)
def test_a_description_that_cannot_be_is_refused(written, changes, message):
    sign(written, **changes)
    assert message in refused(written)


@pytest.mark.parametrize(
    "options", [{"widths": "wide"}, {"widths": [4], "layers": 2}, {"widths": [-4]}]
)
def test_options_that_no_model_has_are_refused(written, options):
    info = json.loads((written / "bundle.json").read_text())
    info["experiment"]["model"]["options"] = options
    sign(written, **info)
    refused(written)


def test_a_range_that_is_none_is_refused(written):
    info = json.loads((written / "bundle.json").read_text())
    info["experiment"]["dataset"]["options"] = {"range": 7}
    sign(written, **info)
    assert "not iterable" in refused(written)


def test_a_model_from_elsewhere_is_not_imported_unasked(written):
    info = json.loads((written / "bundle.json").read_text())
    info["experiment"]["model"] = {"name": "no_such_module:build", "options": {}}
    # Of the other components nothing is built.
    info["experiment"]["algorithm"] = {"name": "nowhere_at_all:build", "options": {}}
    sign(written, **info)
    assert "give --allow_components=no_such_module:build" in refused(written)
    assert "cannot be imported" in refused(written, allowed=["no_such_module:build"])


def save(folder, change):
    values = load_file(folder / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors")
    sign(folder)


def test_a_missing_a_further_and_another_tensor_are_named(written):
    whole = (written / "model.safetensors").read_bytes()
    for change, message in (
        (lambda v: v.update(more=np.zeros(2, np.float32)), "more is not of this model (1 in all)"),
        (lambda v: v.update({"model/classifier/bias": np.zeros(4, np.float32)}), "(4,), expected"),
        (lambda v: v.update({"model/classifier/bias": np.zeros(3)}), "is float64 (3,), expected"),
        (lambda v: v["model/classifier/bias"].fill(np.nan), "no finite float32"),
    ):
        (written / "model.safetensors").write_bytes(whole)
        save(written, change)
        assert message in refused(written)
    (written / "model.safetensors").write_bytes(whole)

    def exchanged(values):  # of the same size
        values["other"] = values.pop("model/classifier/bias")

    save(written, exchanged)
    assert "model/classifier/bias is missing (1 in all)" in refused(written)


def test_a_file_of_another_size_is_not_read(written):
    whole = (written / "model.safetensors").read_bytes()
    for other in (whole[:200], whole + bytes(2**23)):
        (written / "model.safetensors").write_bytes(other)
        sign(written)
        assert f"it has {len(other):,} bytes, and the tensors" in refused(written)
    (written / "model.safetensors").write_bytes(bytes(range(1, 9)) + whole[8:])
    sign(written)
    assert "does not read as safetensors" in refused(written)


def test_a_pipe_is_not_waited_for(written):
    (written / "model.safetensors").unlink()
    os.mkfifo(written / "model.safetensors")
    assert "expected a regular file, got a named pipe" in refused(written)


def test_a_folder_that_is_no_bundle_is_refused_by_the_command(tmp_path, capsys):
    start = ["predict", f"--images={tmp_path}", f"--out={tmp_path / 'o.csv'}"]
    assert cli.main([*start, f"--model={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no bundle: expected a folder with bundle.json" in line
    assert cli.main(start) == 2
    assert "expected --model=BUNDLE" in capsys.readouterr().err


def test_a_frozen_part_is_in_the_bundle_and_the_names_of_both_parts_differ():
    experiment = Experiment(
        image_size=32, model=Spec("efficientnet_lite0", {"frozen_blocks": 2}), colour_constancy=6.0
    )
    shapes = bundle.shapes(experiment, 3)
    names = shapes.named()
    assert {name.split("/")[0] for name in names} == {"model", "frozen"}
    assert shapes.below.colour_constancy == 6.0
    both = jax.tree.leaves((shapes.params, shapes.frozen))
    assert len(names) == len(both)


def test_two_parameters_of_one_name_are_refused():
    with pytest.raises(UserError, match="have one name"):
        tensors.named({"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)}, "model")


# --- the card ---------------------------------------------------------------------------------


def front_matter(text):
    head = text.split("---\n")[1]
    return yaml.safe_load(head)


def test_the_card_has_the_hubs_form_and_says_what_the_model_is_not(written):
    text = (written / "README.md").read_text()
    said = front_matter(text)
    assert said["license"] == "apache-2.0"
    assert said["library_name"] == "fedjax_med"
    assert said["pipeline_tag"] == "image-classification"
    assert "model-index" not in said
    for title in ("Intended use", "Training data", "Figures", "Privacy", "How to use"):
        assert f"\n## {title}\n" in text
    assert "not a medical device" in text
    assert "30 images of 2 hospitals" in text
    assert "| 0 | 20 |" in text
    assert "**No epsilon is promised.**" in text
    assert "training images may be inferred" in text.replace("\n", " ")
    assert "$" not in text


def test_figures_and_a_promise_are_on_the_card():
    experiment = Experiment(image_size=16, model=Spec("cnn", {"widths": [4], "groups": 2}))
    figures = dict.fromkeys(("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc"), 0.75)
    info = bundles.info_of(
        experiment,
        ["a: 'b' \"c\"", "---\n# x", "<b>"],
        evaluation={"n": 12, "intervals": {"accuracy": [0.5, 0.9]}, **figures, "macro_f1": None},
        privacy={"promised": True, "unit": "example", "epsilon": 2.5, "delta": 1e-5},
    )
    text = card.text(info, "of: #1\n")
    (index,) = front_matter(text)["model-index"]
    assert index["name"] == "of: #1\n"
    metrics = index["results"][0]["metrics"]
    assert [(one["type"], one["value"]) for one in metrics] == [
        ("accuracy", 0.75),
        ("balanced_accuracy", 0.75),
        ("macro_auroc", 0.75),
    ]
    assert "| accuracy | 0.750 | 0.500 to 0.900 |" in text
    assert "epsilon 2.5 at delta 1e-05" in text
    assert "No epsilon is promised" not in text
    assert "\n# x" not in text
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_every_file_but_the_description_has_its_digest(written):
    info = json.loads((written / "bundle.json").read_text())
    others = {path.name for path in written.iterdir()} - {form.INFO}
    assert info["files"].keys() == others
