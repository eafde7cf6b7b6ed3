"""Weights from the hub are those of one commit and one checksum."""

import hashlib
import json
import sys
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.experiment.config import Experiment
from fedjax_med.models.pretrained import hub, weights
from fedjax_med.run.train import TrainJob, _weights

OLD, NEW = "a1" * 20, "b2" * 20
NAMED = f"hub:me/net.v1@{OLD}"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What a fake hub was asked for; its newest commit is NEW once the file `newer` is there."""
    asked = []

    def download(repository, file, revision=""):
        asked.append((repository, file, revision))
        revision = revision or (NEW if (tmp_path / "newer").exists() else OLD)
        path = tmp_path / "models--x" / "snapshots" / revision / file
        if not path.exists():
            path.parent.mkdir(parents=True)
            save_file({"a": np.full(3, revision == NEW, np.float32)}, path)
        return str(path)

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=download)
    )
    return asked


def weights_file(tmp_path, revision=OLD):
    return tmp_path / "models--x" / "snapshots" / revision / "model.safetensors"


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_commit_of_the_first_download_is_that_of_all_later_ones(tmp_path, asked):
    assert weights.read("hub")["a"].tolist() == [0, 0, 0]
    (tmp_path / "newer").touch()
    assert weights.read("hub")["a"].tolist() == [0, 0, 0]
    assert [revision for *_, revision in asked] == ["", OLD]
    assert hub.recorded("hub") == {
        "repository": "timm/tf_efficientnet_lite0.in1k",
        "file": "model.safetensors",
        "revision": OLD,
        "sha256": sha256(weights_file(tmp_path)),
    }


@pytest.mark.parametrize("source", ["hub", NAMED])
def test_a_file_that_changes_after_the_first_download_is_refused(tmp_path, asked, source):
    weights.read(source)
    weights.read(source)
    save_file({"a": np.full(3, 7, np.float32)}, weights_file(tmp_path))
    message = (
        f"has the SHA-256 {sha256(weights_file(tmp_path))}, expected .*, as recorded in .*json"
    )
    with pytest.raises(UserError, match=message):
        weights.read(source)


def test_the_commit_and_the_checksum_that_are_given_count(tmp_path, asked):
    assert weights.read(NAMED.upper().replace("HUB:ME/NET.V1", "hub:me/net.v1"))["a"].sum() == 0
    assert asked == [("me/net.v1", "model.safetensors", OLD)]
    right = sha256(weights_file(tmp_path))
    weights.read(f"{NAMED}#sha256={right}")
    with pytest.raises(UserError, match=f"SHA-256 {right}, expected {'0' * 64}, as given"):
        weights.read(f"{NAMED}#sha256={'0' * 64}")
    other = f"hub:me/net.v1@{NEW}#sha256={right}"
    with pytest.raises(UserError, match="as given"):
        weights.read(other)
    assert hub.recorded(other) == {}  # what is not as given is not trusted


@pytest.mark.parametrize(
    "source",
    [
        *("hub:", "hub:me", "hub:me/net", "hub:me/net@main", "hub:me/net@v1.0"),
        *(f"hub:me/net@{OLD[:-1]}", f"hub:me/net@{OLD}0", f"hub:@{OLD}", f"hub:a/b/c@{OLD}"),
        *(f"{NAMED}#sha256=12", f"{NAMED}#md5={'0' * 64}", f"{NAMED}#", f"{NAMED}\n"),
    ],
)
def test_what_names_no_commit_is_refused_before_anything_is_done(tmp_path, asked, capsys, source):
    given = [f"--config.pretrained={source}", "--config.model.name=efficientnet_lite0"]
    for command in ("train", "audit", "compare"):
        assert cli.main([command, *given]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "expected hub:OWNER/NAME@COMMIT" in line
        assert "git ls-remote https://huggingface.co/" in line
    assert not asked


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"revision": "x"}'])
def test_a_damaged_record_is_not_taken_for_none(tmp_path, asked, content):
    weights.read("hub")
    (record,) = (tmp_path / "state" / "fedjax_med" / "hub").iterdir()
    record.write_text(content)
    with pytest.raises(UserError, match=r"json cannot be read: .*restore or remove it"):
        weights.read("hub")


def test_a_run_records_its_weights_and_keeps_the_record_where_it_resumes(tmp_path, asked):
    job = TrainJob(Experiment(pretrained=NAMED), "", "", tmp_path / "run")
    assert _weights(job) == {}
    weights.read(NAMED)
    (found,) = _weights(job).values()
    assert found["revision"] == OLD
    saved = {"experiment": {}, "data_dir": "", "data": "", "weights": found}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "experiment.json").write_text(json.dumps(saved))
    (record,) = (tmp_path / "state" / "fedjax_med" / "hub").iterdir()
    record.unlink()
    assert _weights(job) == {"weights": found}
