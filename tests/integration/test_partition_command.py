"""The partition command, and that training sees no difference between the whole and the folders."""

import collections
import hashlib
import json

import hostile
import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data.audit import duplicates, findings
from fedjax_med.data.client_data import stack
from fedjax_med.data.images import export
from fedjax_med.data.splits import hold_out, partition
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.experiment.load_data import partitioner

CLIENTS = 11  # more than ten: client_10 comes after client_9, not after client_1
SIZE = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder ``Train/``, ``TEST/`` of two classes, with duplicates within a class and across."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, per_class in (("Train", 60), ("TEST", 3)):
        for name in ("mole", "wart"):
            (root / split / name).mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    train = root / "Train"
    for i in range(8):
        (train / "mole" / f"copy {i}.png").write_bytes((train / "mole" / f"{i}.png").read_bytes())
    for i in range(10, 16):
        (train / "wart" / f"also {i}.png").write_bytes((train / "mole" / f"{i}.png").read_bytes())
    return root


def run(images, out, cache, *extra):
    return cli.main(
        [
            "partition",
            f"--data_dir={images}",
            f"--cache_dir={cache}",
            f"--out={out}",
            f"--config.image_size={SIZE}",
            *extra,
        ]
    )


def as_train_sees_it(data_dir, cache, policy, spec, num_clients, fraction):
    """The arrays that training gets: the train parts and the validation parts."""
    dataset = components.build("datasets", Spec("image_folder"), str(data_dir), str(cache), SIZE)
    dataset, _ = findings.clean(dataset, findings.find(dataset), policy)
    split, groups = dataset.train, duplicates.duplicate_groups(dataset.train)
    parts = partition(split, groups, partitioner(spec, num_clients, 3), num_clients)
    halves = [
        hold_out(split, groups, part, fraction, 3, client) for client, part in enumerate(parts)
    ]
    examples = [stack(split, list(half)) for half in zip(*halves, strict=True)]
    return examples, dataset


@pytest.mark.parametrize("policy", ["keep", "drop", "rarest"])
@pytest.mark.parametrize(
    "spec",
    [Spec("equal"), Spec("dirichlet", {"alpha": 0.5, "min_examples": 4})],
    ids=lambda spec: spec.name,
)
def test_training_from_the_folders_sees_the_same_arrays(images, tmp_path, policy, spec):
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = [f"--config.partition.options.{key}={value}" for key, value in spec.options.items()]
    arguments = [
        f"--config.policy={policy}",
        f"--config.num_clients={CLIENTS}",
        f"--config.partition.name={spec.name}",
        "--config.seed=3",
        *options,
    ]
    assert run(images, out, cache, *arguments) == 0
    whole, dataset = as_train_sees_it(images, cache, policy, spec, CLIENTS, 0.3)
    folders, divided = as_train_sees_it(out, cache, policy, Spec("equal"), CLIENTS, 0.3)
    assert dataset.class_names == divided.class_names
    assert whole[1].mask.sum() > 0
    for one, other in zip(whole, folders, strict=True):
        assert all(map(np.array_equal, one, other))
    assert np.array_equal(dataset.test.name, divided.test.name)
    assert np.array_equal(dataset.test.image, divided.test.image)


def test_files_are_copied_untouched_and_listed(images, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert (
        run(images, out, tmp_path / "cache", "--config.num_clients=3", "--config.policy=keep") == 0
    )
    manifest = json.loads((out / "manifest.json").read_text())
    assert {key: manifest[key] for key in ("dataset", "policy", "num_clients", "seed")} == {
        "dataset": "image_folder",
        "policy": "keep",
        "num_clients": 3,
        "seed": Experiment().seed,
    }
    assert manifest["partition"] == {"name": "equal", "options": {}}
    assert manifest["class_names"] == ["mole", "wart"]
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {"manifest.json"} | {entry["path"] for entry in manifest["files"]}
    for entry in manifest["files"]:
        data = (out / entry["path"]).read_bytes()
        assert data == (images / entry["source"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        folder, label, _ = entry["path"].split("/")
        assert label == entry["label"]
        assert folder == ("test" if entry["split"] == "test" else f"client_{entry['client']}")
    sources = [entry["source"] for entry in manifest["files"]]
    assert len(sources) == len(set(sources)) == 60 + 60 + 8 + 6 + 6
    assert sum(source.startswith("TEST/") for source in sources) == 6
    sizes = collections.Counter(tuple(entry["path"].split("/")[:2]) for entry in manifest["files"])
    table = capsys.readouterr().out.splitlines()
    for label, dealt in (("mole", [22, 23, 23]), ("wart", [22, 22, 22])):
        row = [sizes[f"client_{client}", label] for client in range(3)]
        assert sorted(row) == dealt
        assert [label, *map(str, row), "3"] in [line.split() for line in table]


def test_interrupted_run_leaves_nothing_half_written(images, tmp_path, monkeypatch, capsys):
    def full(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        run(images, tmp_path / "first", tmp_path / "cache")
        patch.setattr("pathlib.Path.write_bytes", full)
        assert run(images, tmp_path / "out", tmp_path / "cache") == 2
    assert "cannot be written: No space left on device." in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "first"]
    (tmp_path / ".out.partial" / "old").mkdir(parents=True)  # what a killed run leaves
    (tmp_path / "out").mkdir()
    assert run(images, tmp_path / "out", tmp_path / "cache") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "first", "out"]
    assert not (tmp_path / "out" / "old").exists()


def test_two_runs_into_one_folder_leave_each_others_work_alone(
    images, tmp_path, monkeypatch, capsys
):
    copy, codes = export._copy, []

    def overtake(*arguments):
        if not codes:
            codes.append(None)
            codes.append(run(images, tmp_path / "out", tmp_path / "cache"))
        copy(*arguments)

    monkeypatch.setattr(export, "_copy", overtake)
    assert run(images, tmp_path / "out", tmp_path / "cache") == 2
    assert codes == [None, 0]
    assert "cannot be written: Directory not empty." in capsys.readouterr().err
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    assert all((tmp_path / "out" / entry["path"]).exists() for entry in listed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


def test_file_that_changes_while_it_is_read_is_refused(images, tmp_path, monkeypatch, capsys):
    real = components.build

    def stale(shelf, *args):
        built = real(shelf, *args)
        if shelf == "datasets":
            built.test.sha256[0] = "0" * 64
        return built

    monkeypatch.setattr(components, "build", stale)
    assert run(images, tmp_path / "out", tmp_path / "cache") == 2
    assert "0.png has changed while it was read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_file_that_cannot_be_read_is_named(images, tmp_path, monkeypatch, capsys):
    def refuse(path, limit):
        raise PermissionError(13, "Permission denied")

    assert run(images, tmp_path / "first", tmp_path / "cache") == 0  # prepares the images
    monkeypatch.setattr("fedjax_med.data.images.export.read_regular", refuse)
    assert run(images, tmp_path / "out", tmp_path / "cache") == 2
    assert ".png cannot be read: Permission denied." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def one_line(capsys):
    err = capsys.readouterr().err.strip().splitlines()
    return [line for line in err if line.startswith("fedjax-med: ")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out={tmp}/out"], "--data_dir=FOLDER"),
        (["--config.dataset.name=lesions", "--out={tmp}/out"], "'lesions' has no files"),
        (["--data_dir={images}"], "give --out=FOLDER"),
        (["--data_dir={images}", "--out={images}/parts"], "lies in --data_dir"),
        (["--data_dir={images}", "--out={images}"], "lies in --data_dir"),
        (["--data_dir={images}", "--out={tmp}"], "is not an empty folder"),
        (["--data_dir={images}", "--out={tmp}/file"], "is not an empty folder"),
        (["--data_dir={images}", "--out={tmp}/out", "--config.partition.name=equall"], "'equal'?"),
        (["--data_dir={images}", "--outt={tmp}/out"], "out"),
    ],
)
def test_mistakes_are_told_in_one_line(images, tmp_path, capsys, arguments, message):
    (tmp_path / "file").write_text("")
    given = [argument.format(tmp=tmp_path, images=images) for argument in arguments]
    assert cli.main(["partition", f"--cache_dir={tmp_path}/cache", *given]) == 2
    (line,) = one_line(capsys)
    assert message in line


def test_divided_folder_is_refused(images, tmp_path, capsys):
    assert run(images, tmp_path / "out", tmp_path / "cache") == 0
    assert run(tmp_path / "out", tmp_path / "again", tmp_path / "cache") == 2
    assert "already divided into client folders" in one_line(capsys)[0]


@pytest.mark.slow
@pytest.mark.real_data
def test_equal_divides_each_class_of_the_real_set_within_one(isic9_dir, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    arguments = ["--config.dataset.name=isic9", "--config.policy=rarest"]
    assert run(isic9_dir, out, cache, *arguments) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    sizes = collections.Counter((e["label"], e["client"]) for e in manifest["files"])
    totals = []
    for label in manifest["class_names"]:
        counts = [sizes[label, client] for client in range(5)]
        assert max(counts) - min(counts) <= 1
        totals.append(sum(counts))
    # The class sizes after cleaning, and the untouched test split.
    assert totals == [114, 376, 95, 359, 279, 462, 77, 181, 139]
    assert sum(sizes[label, None] for label in manifest["class_names"]) == 118
    for entry in manifest["files"]:
        data = (out / entry["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]


@pytest.fixture
def divided(images, tmp_path):
    """Client folders with their manifest."""
    assert run(images, tmp_path / "out", tmp_path / "cache", "--config.num_clients=3") == 0
    return tmp_path / "out"


def read(root):
    return components.build(
        "datasets", Spec("image_folder"), str(root), str(root.parent / "cache"), SIZE
    )


def first(root):
    return min((root / "client_0" / "mole").iterdir())


def remove(root):
    first(root).unlink()


def add(root):
    (root / "client_1" / "wart" / "new.png").write_bytes(first(root).read_bytes())


def change(root):
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(first(root))


def move(root):
    first(root).rename(root / "client_1" / "mole" / first(root).name)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (remove, "is missing"),
        (add, "new.png is not listed"),
        (change, "has other bytes"),
        (move, r"\(and 1 more faults\)"),
    ],
)
def test_client_folders_that_differ_from_their_manifest_are_refused(divided, damage, fault):
    assert read(divided).train.num_examples > 0
    damage(divided)
    with pytest.raises(UserError, match=rf"is not what its manifest.json lists.*{fault}"):
        read(divided)
    (divided / "manifest.json").unlink()
    assert read(divided).train.num_examples > 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "\xff",
        "[" * 100_000,
        '{"format": 99, "files": []}',
        '{"format": 1}',
        '{"format": 1, "files": 3}',
        '{"format": 1, "files": [3]}',
        '{"format": 1, "files": [{"path": 3, "sha256": "x"}]}',
        '{"format": 1, "files": [{"path": ["x"], "sha256": "x"}]}',
    ],
)
def test_manifest_that_does_not_read_is_told(divided, text):
    (divided / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match=r"manifest.json cannot be read") as told:
        read(divided)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "dangling", "huge"])
def test_manifest_that_is_no_file_of_bounded_size_is_told(divided, kind):
    file = divided / "manifest.json"
    file.unlink()
    hostile.make(file, kind)
    with pytest.raises(UserError, match=r"manifest.json cannot be read"):
        read(divided)


def test_missing_client_folder_is_named(divided):
    (divided / "client_0").rename(divided.parent / "hidden")
    with pytest.raises(UserError, match=r"client_0/.* is missing"):
        read(divided)
