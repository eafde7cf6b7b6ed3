"""What can be known without an image is refused before images are prepared."""

import json
import os

import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.experiment import config, load_data, resolve

LITE = "--config.model.name=efficientnet_lite0"
FAULTS = {
    "no such weights": ([LITE, "--config.pretrained=none.pth"], "there is no such file"),
    "damaged weights": ([LITE, "--config.pretrained={}/bad.pth"], "was not read"),
    "a model without": (["--config.pretrained=imagenet"], "this model takes no weights"),
    "other number of clients": (["--config.num_clients=3"], "divided into 2 client folders"),
}


@pytest.fixture
def hospitals(tmp_path):
    for hospital in ("north", "south"):
        folder = tmp_path / "data" / hospital / "a"
        folder.mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / f"{hospital}.png")
    (tmp_path / "bad.pth").write_bytes(b"bad")
    return tmp_path


@pytest.mark.parametrize("command", ["train", "compare", "crossvalidate"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_before_an_image_is_read(hospitals, monkeypatch, capsys, fault, command):
    monkeypatch.setattr(load_data, "read", lambda *_: pytest.fail("images were read"))
    given, message = FAULTS[fault]
    given = [one.format(hospitals) for one in given]
    places = [f"--data_dir={hospitals / 'data'}", f"--cache_dir={hospitals / 'cache'}"]
    assert cli.main([command, *places, f"--workdir={hospitals / 'run'}", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (hospitals / "run").exists()
    assert not (hospitals / "cache").exists()


def test_a_client_that_does_not_exist_is_told_before_an_image_is_read(
    hospitals, monkeypatch, capsys
):
    monkeypatch.setattr(load_data, "read", lambda *_: pytest.fail("images were read"))
    given = [f"--data_dir={hospitals / 'data'}", f"--workdir={hospitals / 'run'}"]
    given += ["--config.setting=local", "--config.local_client=2"]
    assert cli.main(["train", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected --config.local_client from 0 to 1, got 2" in line
    assert not (hospitals / "run").exists()


@pytest.mark.parametrize("command", ["audit", "partition"])
def test_what_cannot_be_written_is_told_before_an_image_is_read(
    hospitals, monkeypatch, capsys, command
):
    monkeypatch.setattr(load_data, "read", lambda *_: pytest.fail("images were read"))
    given = [f"--data_dir={hospitals / 'data'}", f"--out={hospitals / 'bad.pth' / 'out'}"]
    assert cli.main([command, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bad.pth is a file" in line
    assert cli.main(["audit", given[0], f"--out={hospitals}"]) == 2
    assert "expected the name of a file to write" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "contribution"])
def test_a_workdir_that_cannot_be_written_is_told_before_an_image_is_read(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.setattr(load_data, "read", lambda *_: pytest.fail("images were read"))
    experiment = config.to_dict(resolve.complete(config.Experiment(keep_updates=True)))
    content = {"experiment": experiment, "data_dir": "", "data": ""}
    (tmp_path / "experiment.json").write_text(json.dumps(content))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli.main([command, f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not writable" in line
