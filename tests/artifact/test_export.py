"""A run's model leaves its workdir, and predicts elsewhere what `evaluate` said."""

import csv
import json
import shutil

import bundles
import drawn_lesions
import efficientnet
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from fedjax_med.artifact import card, export
from fedjax_med.artifact.trained import Trained, has_own_models
from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.evaluation import predictions
from fedjax_med.experiment.config import Experiment, Privacy, Spec
from fedjax_med.models import _backbones
from fedjax_med.models import _efficientnet_lite as lite
from fedjax_med.models.pretrained import weights

SMALL = lite.variant("small", 0.2, 0.5)


def train(folder, *flags):
    """Train and evaluate a tiny run on drawn image files; return its workdir."""
    if not (folder / "data").exists():
        drawn_lesions.draw(folder / "data", 160, 60)
    command = [
        "train",
        f"--config={tiny.__file__}",
        f"--data_dir={folder / 'data'}",
        f"--workdir={folder / 'run'}",
        f"--cache_dir={folder / 'cache'}",
        "--evaluate",
        "--config.dataset.name=image_folder",
        "--config.num_clients=2",
        "--config.rounds=2",
        "--config.client.epochs=1",
    ]
    assert cli.main([*command, *flags]) == 0
    return folder / "run"


def exported(workdir, out, *flags):
    return cli.main(["export", f"--workdir={workdir}", f"--out={out}", *flags])


def predicted(model, images, out):
    """Predict into a CSV, whose rows are returned by file."""
    command = ["predict", f"--model={model}", f"--images={images}", f"--out={out}"]
    assert cli.main([*command]) == 0
    with out.open(newline="") as stream:
        return {row["file"]: row for row in csv.DictReader(stream)}


def check_identity(workdir, model, test):
    """The bundle says of every test image, to the digit, what predictions.csv says."""
    with (workdir / predictions.NAME).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = predicted(model, test, workdir.parent / "found.csv")
    assert len(rows) == len(found) == 24
    for row in rows:
        one = found[row["image"]]
        assert one["predicted"] == row["predicted"]
        assert [one[f"p_{name}"] for name in "ab"] == [row[name] for name in "ab"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A calibrated run with an operating point."""
    return train(
        tmp_path_factory.mktemp("scratch"),
        "--config.calibrate=True",
        "--config.operating.classes=b",
        "--config.tta_views=4",
        "--config.crop=pad",
        "--config.colour_constancy=6",
    )


@pytest.mark.slow
def test_the_bundle_predicts_what_evaluate_said_without_data_and_workdir(trained, tmp_path, capsys):
    shutil.copytree(trained.parent / "data" / "Test", tmp_path / "Test")
    shutil.copytree(trained, tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "experiment.json").read_text())
    saved["data_dir"] = saved["cache_dir"] = str(tmp_path / "gone")
    (tmp_path / "run" / "experiment.json").write_text(json.dumps(saved))
    assert exported(tmp_path / "run", tmp_path / "m") == 0
    assert "may be inferred" in capsys.readouterr().out
    evaluation = json.loads((trained / "evaluation.json").read_text())
    info = json.loads((tmp_path / "m" / "bundle.json").read_text())
    assert info["temperature"] == evaluation["temperature"]
    of = evaluation["operating"]["classes"]["b"]
    assert info["operating"]["classes"]["b"]["threshold"] == of["threshold"]
    assert info["evaluation"]["accuracy"] == evaluation["accuracy"]
    assert info["class_names"] == ["a", "b"]
    assert info["training"]["images"] == sum(info["training"]["images_by_client"]) > 40
    assert info["provenance"]["data"] == saved["data"]
    for path in tmp_path.glob("run/*"):
        if path.name != "predictions.csv":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    check_identity(tmp_path / "run", tmp_path / "m", tmp_path / "Test")


@pytest.mark.slow
def test_the_bundle_is_evaluated_as_its_run_was(trained, tmp_path):
    assert exported(trained, tmp_path / "m") == 0
    places = [f"--data_dir={trained.parent / 'data'}", f"--out={tmp_path / 'out'}"]
    assert cli.main(["evaluate", f"--model={tmp_path / 'm'}", *places]) == 0
    before, found = (
        json.loads((folder / "evaluation.json").read_text())
        for folder in (trained, tmp_path / "out")
    )
    same = ("n", "accuracy", "log_loss", "intervals", "per_class", "operating", "test_set")
    assert {name: found[name] for name in same} == {name: before[name] for name in same}
    one, other = ((folder / predictions.NAME).read_text() for folder in (trained, tmp_path / "out"))
    assert one == other


@pytest.mark.slow
def test_a_bundle_starts_a_run_of_its_model(trained, tmp_path, capsys):
    """A run whose clients learn at rate 0 stays where the bundle is."""
    assert exported(trained, tmp_path / "m") == 0
    shutil.copytree(trained.parent / "data", tmp_path / "data")
    flags = [
        f"--config.pretrained={tmp_path / 'm'}",
        "--config.client.optimizer.options.learning_rate=0",
        "--config.seed=1",
        "--config.rounds=1",
    ]
    workdir = train(tmp_path, *flags)
    assert exported(workdir, tmp_path / "again") == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("m", "again"))
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-6)
    capsys.readouterr()
    for split in ("Train", "Test"):
        (tmp_path / "data" / split / "b").rename(tmp_path / "data" / split / "c")
    command = ["train", f"--config={tiny.__file__}", f"--data_dir={tmp_path / 'data'}", flags[0]]
    command += ["--config.dataset.name=image_folder", f"--cache_dir={tmp_path / 'cache'}"]
    assert cli.main([*command, f"--workdir={tmp_path / 'other'}"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "is a bundle of the classes a, b; the data have a, c" in told


@pytest.mark.slow
def test_a_model_with_a_frozen_part_takes_its_weights_along(tmp_path, monkeypatch):
    monkeypatch.setattr(_backbones, "BACKBONES", {"small": lambda: lite.layers(SMALL)})
    unknown = weights._Network("", "", "", "me/net")
    monkeypatch.setattr(weights, "_NETWORKS", weights._NETWORKS | {"small": unknown})
    source = tmp_path / "small.safetensors"
    save_file(efficientnet.random_tensors(SMALL.stages), source)
    workdir = train(
        tmp_path,
        "--config.model.name=frozen_layers",
        "--config.model.options.backbones=small",
        "--config.model.options.own_statistics=0.5",
        "--config.model.options.discriminant=0.5",
        "--config.tta_views=2",
        f"--config.pretrained={source}",
        "--config.image_size=32",
    )
    assert exported(workdir, tmp_path / "m") == 0
    source.unlink()
    names = load_file(tmp_path / "m" / "model.safetensors")
    assert {name.split("/")[0] for name in names} == {"model", "frozen"}
    check_identity(workdir, tmp_path / "m", tmp_path / "data" / "Test")
    # Too few images for statistics of their own: said, and predicted by those of training.
    command = ["predict", f"--model={tmp_path / 'm'}", f"--images={tmp_path / 'few'}"]
    (tmp_path / "few").mkdir()
    for file in sorted((tmp_path / "data" / "Test" / "a").iterdir())[:15]:
        shutil.copy(file, tmp_path / "few")
    assert cli.main([*command, f"--out={tmp_path / 'few.json'}"]) == 0
    found = json.loads((tmp_path / "few.json").read_text())
    assert found["own_statistics"] == {"share": 0.5, "applied": False}
    assert "needs at least 16 images of a site, and there are 12" in found["notes"][0]


@pytest.mark.slow
def test_what_the_evaluation_must_say_is_asked_for_in_one_line(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "evaluation.json"
    evaluation = json.loads(file.read_text())
    capsys.readouterr()
    for content, reason in (
        (evaluation | {"round": 1}, "the run's evaluation is of round 1, and the model of round 2"),
        ({k: v for k, v in evaluation.items() if k != "temperature"}, "evaluation lacks its"),
        (None, "the run was not evaluated"),
    ):
        file.write_text(json.dumps(content)) if content else file.unlink()
        assert exported(tmp_path / "run", tmp_path / "m") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
        assert "the bundle needs its temperature and its operating: run `fedjax-med ev" in line
        assert not (tmp_path / "m").exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", [{"per_class": 1}, {"operating": {"classes": 1}}])
def test_a_damaged_evaluation_is_told(trained, tmp_path, capsys, damage):
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    capsys.readouterr()
    assert exported(tmp_path / "run", tmp_path / "m") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("is not what `evaluate` writes. Evaluate the run again.")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_not_exported(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        for file in folder.rglob("*"):
            if file.is_file() and file.stat().st_size > 500:
                data = bytearray(file.read_bytes())
                data[len(data) // 2] ^= 1
                file.write_bytes(data)
    assert exported(tmp_path / "run", tmp_path / "m") == 2
    told = capsys.readouterr().err
    assert "The checkpoint of round 2 is damaged" in told
    assert "no checkpoint in" in told.splitlines()[-1]


@pytest.mark.slow
def test_of_a_clustered_run_one_model_is_chosen_and_figures_stay_behind(tmp_path, capsys):
    workdir = train(tmp_path, "--config.algorithm.name=ifca")
    capsys.readouterr()
    assert exported(workdir, tmp_path / "m") == 2
    assert "give --cluster=NUMBER from 0 to 1, got -1" in capsys.readouterr().err
    kernels = []
    for cluster in (0, 1):
        out = tmp_path / f"m{cluster}"
        assert exported(workdir, out, f"--cluster={cluster}") == 0
        assert "Without figures: the run's figures are of its" in capsys.readouterr().out
        kernels.append(load_file(out / "model.safetensors")["model/classifier/kernel"])
    assert kernels[0].shape == kernels[1].shape == (8, 2)
    assert not np.array_equal(*kernels)


def test_noise_that_the_seed_tells_is_no_promise():
    spent = {"unit": "example", "epsilon": 2.0, "delta": 1e-5, "noise_multiplier": 1.0}
    model = Trained({}, 1, 1, spent, "")
    secret, seed = (
        Experiment(privacy=Privacy(unit="example", noise_from=source))
        for source in ("secret", "seed")
    )
    assert export._promise(secret, model) == {"promised": True, **spent}
    assert export._promise(seed, model)["promised"] is False
    assert "follows from the seed" in card.privacy(export._promise(seed, model))
    assert export._promise(secret, model._replace(privacy={})) == {"promised": False}


@pytest.mark.parametrize(
    ("name", "own", "clusters"), [("fed_avg", False, 0), ("ditto", True, 0), ("cfl", True, 3)]
)
def test_it_is_known_which_runs_have_several_models(name, own, clusters):
    experiment = Experiment(algorithm=Spec(name))
    assert has_own_models(experiment) == (own, clusters)


def test_bad_places_and_licenses_are_refused_before_anything_is_read(tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    for flags, message in (
        ([f"--out={full}"], "exists and is not an empty folder"),
        ([f"--out={tmp_path / 'o'}", "--license=a\nb"], "expected --license as an identifier"),
        ([f"--out={tmp_path / 'o'}", "--checkpoint=first"], "There is no 'first'"),
        ([f"--out={tmp_path / 'o'}"], "expected a workdir that `fedjax-med train` wrote"),
        ([], "give --out=FOLDER"),
    ):
        assert cli.main(["export", f"--workdir={tmp_path / 'none'}", *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "sync_tree", full)
    with pytest.raises(UserError, match=r"cannot be written: No space left on device\."):
        bundles.write(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_card_has_no_empty_paragraph():
    bare = {"temperature": None, "calibration_doubt": "", "tta_views": 1, "operating": None}
    assert card._calibration(bare) == "Probabilities are not calibrated."


@pytest.mark.slow
def test_the_command_writes_the_program_unless_it_is_told_not_to(trained, tmp_path, capsys):
    assert exported(trained, tmp_path / "with") == 0
    assert "for cpu, cuda, tpu was compared with the model on 35 drawn" in capsys.readouterr().out
    card_ = (tmp_path / "with" / "README.md").read_text()
    assert "nothing in it is executed unless\n`--program` asks for `program.stablehlo`." in card_
    assert exported(trained, tmp_path / "without", "--program=False") == 0
    assert "program" not in capsys.readouterr().out
    one, other = ({path.name for path in (tmp_path / n).iterdir()} for n in ("with", "without"))
    assert one - other == {"program.stablehlo"}
    assert "nothing in it is executed.\n" in (tmp_path / "without" / "README.md").read_text()
    command = ["predict", "--program", f"--images={trained.parent / 'data' / 'Test'}"]
    for name, code in (("with", 0), ("without", 2)):
        out = tmp_path / f"{name}.csv"
        assert cli.main([*command, f"--model={tmp_path / name}", f"--out={out}"]) == code
    with (tmp_path / "with.csv").open(newline="") as stream:
        found = {row["file"]: row for row in csv.DictReader(stream)}
    with (trained / predictions.NAME).open(newline="") as stream:
        for row in csv.DictReader(stream):
            for name in "ab":
                assert abs(float(row[name]) - float(found[row["image"]][f"p_{name}"])) < 1e-5
