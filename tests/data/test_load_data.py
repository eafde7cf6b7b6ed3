import numpy as np
import pytest
from PIL import Image

from fedjax_med.data import digests
from fedjax_med.data.feature_cache import Part
from fedjax_med.errors import UserError
from fedjax_med.experiment import frozen as frozen_part
from fedjax_med.experiment import load_data, resolve
from fedjax_med.experiment.config import Experiment, Spec
from fedjax_med.models import cnn
from fedjax_med.run import train


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, number in (("Train", 20), ("Test", 2)):
        for name in ("a", "b"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for image in range(number):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(
                    tmp_path / "data" / split / name / f"{name}{image}.png"
                )
    return tmp_path / "data"


def built(frozen):
    """`components.build`, but with models that have the frozen part `frozen`."""
    build = load_data.components.build

    def instead(shelf, *arguments):
        made = build(shelf, *arguments)
        return made._replace(frozen=frozen) if shelf == "models" else made

    return instead


def load(folder, **changes):
    experiment = Experiment(num_clients=2, image_size=16, **changes)
    resolve.settle(resolve.complete(experiment))  # as every command does
    return load_data.load(experiment, str(folder), str(folder.parent / "cache"))


def test_digests_follow_labels_images_division_and_the_test_set(folder):
    first, again = load(folder), load(folder)
    assert (first.digest, first.test_digest) == (again.digest, again.test_digest)
    others = [load(folder, seed=1), load(folder, validation_fraction=0.3)]
    (folder / "Test/a/a0.png").rename(folder / "Test/b/a0.png")
    relabelled = load(folder)
    assert relabelled.digest == first.digest
    assert relabelled.test_digest != first.test_digest
    (folder / "Train/a/a0.png").rename(folder / "Train/b/a0.png")
    others.append(load(folder))
    assert len({first.digest, *(one.digest for one in others)}) == 4


def test_labels_alone_change_the_digest(folder):
    split = load(folder).test
    wrong = split._replace(label=1 - split.label)
    part = [np.arange(split.num_examples)]
    assert digests.digest(split, part, "") != digests.digest(wrong, part, "")


def test_digests_follow_what_makes_pixels_of_the_files(folder):
    usual = load(folder)
    for name in ("a", "b"):
        Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(folder / f"Train/{name}/deep.png")
    deep = [load(folder, policy="keep")]
    Image.fromarray(np.full((16, 16), 5000, np.uint16)).save(folder / "Test/a/deep.png")
    deep.append(load(folder, policy="keep"))  # another white for the same train images
    padded = load(folder, policy="keep", crop="pad")
    assert len({one.digest for one in (usual, *deep, padded)}) == 4


def test_sites_of_a_table_name_the_clients(folder):
    rows = [
        f"{path.parent.name}/{path.name},{'Bern' if int(path.stem[1:]) % 2 else 'Aarau'}"
        for path in sorted((folder / "Train").rglob("*.png"))
    ]
    (folder / "sites.csv").write_text("\n".join(["image,site", *rows]))
    spec = Spec("by_column", {"path": str(folder / "sites.csv")})
    data = load(folder, partition=spec)
    assert data.names == ("Aarau", "Bern")
    assert "Clients: 0 is Aarau, 1 is Bern." in data.summary
    assert load(folder).names == ()


def test_cached_features_are_of_the_pixels_and_not_of_the_files_alone(folder, monkeypatch):
    """Two preparations of the same files must not share what frozen blocks made of them."""
    digests = []

    def features(split, part, *_, **__):
        digests.append(part.digest)
        return split

    frozen = cnn.build(2)
    monkeypatch.setattr(load_data.components, "build", built(frozen))
    monkeypatch.setattr(frozen_part.feature_cache, "part", lambda *_: Part(frozen, {}, "weights"))
    monkeypatch.setattr(frozen_part.feature_cache, "features", features)
    for crop in ("centre", "pad"):
        load(folder, crop=crop)
    assert digests[:2] == ["weights"] * 2
    assert len({*digests}) == 2


def names_of(held):
    return [[str(held.split.name[i]) for i in part] for part in held.indices]


def test_folds_test_every_image_once_and_train_on_the_others_of_the_same_clients(folder):
    whole = load(folder, validation_fraction=0.0)
    owner = {name: c for c, part in enumerate(names_of(whole.train)) for name in part}
    tested = []
    for fold in range(4):
        data = load(folder, folds=4, fold=fold)
        test = data.test
        assert np.bincount(test.label).tolist() == [5, 5]  # of 20 each
        assert {str(n): int(c) for n, c in zip(test.name, test.client, strict=True)}.items() <= (
            owner.items()
        )
        kept = [[*t, *v] for t, v in zip(*map(names_of, data[1:3]), strict=True)]
        assert {name: c for c, part in enumerate(kept) for name in part}.items() <= owner.items()
        assert sorted([name for part in [*kept, test.name] for name in part]) == sorted(owner)
        assert f"Fold {fold} of 4 is the test set." in data.summary
        tested += test.name.tolist()
    assert sorted(tested) == sorted(owner)
    other, first = (load(folder, folds=4, seed=seed).test.name.tolist() for seed in (1, 0))
    assert other != first


def test_copies_of_an_image_are_in_one_fold(folder):
    for copy in range(7):
        name = folder / "Train" / "a" / f"copy{copy}.png"
        name.write_bytes((folder / "Train" / "a" / "a3.png").read_bytes())
    for fold in range(4):
        data = load(folder, folds=4, fold=fold, policy="keep")
        copies = [name for name in data.test.name if "copy" in name or name == "a/a3.png"]
        assert len(copies) in (0, 8)


def test_pooled_is_one_client_with_what_all_have_and_local_is_one_of_them(folder):
    data, pooled = load(folder), load(folder, setting="centralized")
    for all_, one in ((data.train, pooled.train), (data.validation, pooled.validation)):
        (part,) = one.indices
        assert part.tolist() == sorted(np.concatenate(all_.indices).tolist())
    for hospital in range(2):
        alone = load(folder, setting="local", local_client=hospital)
        for all_, one in ((data.train, alone.train), (data.validation, alone.validation)):
            assert [part.tolist() for part in one.indices] == [all_.indices[hospital].tolist()]
    assert len({data.digest, pooled.digest, alone.digest}) == 3
    assert data.test_digest == pooled.test_digest == alone.test_digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds >= 2 .* got folds=1 and fold=0"),
        ({"folds": 3, "fold": 3}, "got folds=3 and fold=3"),
        ({"setting": "centralised"}, "Did you mean 'centralized'"),
        ({"setting": "local", "local_client": 2}, "local_client from 0 to 1, got 2"),
    ],
)
def test_a_fold_or_setting_that_does_not_exist_is_refused(folder, changes, message):
    with pytest.raises(UserError, match=message):
        load(folder, **changes)


def test_the_number_of_clients_is_that_of_the_folders_or_the_table(folder, tmp_path):
    def number(data_dir=folder, **changes):
        experiment = resolve.complete(Experiment(**changes))
        return load_data.count_clients(experiment, str(data_dir)).num_clients

    assert number() == resolve.settle(resolve.complete(Experiment())).asked.num_clients == 5
    for name in ("Graz", "Lyon", "Turin"):
        (tmp_path / "hospitals" / name / "a").mkdir(parents=True)
        (tmp_path / "hospitals" / name / "a" / "1.png").touch()
    assert number(tmp_path / "hospitals") == 3
    assert number(tmp_path / "hospitals", num_clients=3) == 3
    with pytest.raises(UserError, match="divided into 3 client folders, but num_clients is 2"):
        number(tmp_path / "hospitals", num_clients=2)
    lines = ["image,site", "a0.png,Rom", "B1.PNG,Bern", "Test/a/a0.png,Oslo", "gone.png,Kiew"]
    (folder / "sites.csv").write_text("\n".join(lines))
    table = Spec("by_column", {"path": str(folder / "sites.csv")})
    assert number(partition=table) == number(partition=table, num_clients=2) == 2
    with pytest.raises(UserError, match="2 sites of the images, but num_clients is 5"):
        number(partition=table, num_clients=5)
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        number(partition=Spec("by_column", {"path": "nowhere.csv"}), num_clients=2)
    drawn = number("", dataset=Spec("lesions"), partition=table)  # its names are not known yet
    assert drawn == 4


def test_hospitals_of_any_name_name_the_clients(folder):
    (folder / "Train").rename(folder / "Graz")
    experiment = resolve.complete(Experiment(image_size=16))
    data = load_data.load(experiment, str(folder), str(folder.parent / "cache"))
    assert data.names == ("Graz",)
    assert "Clients: 0 is Graz." in data.summary


def test_the_line_about_the_data_has_the_serious_findings(folder):
    assert "Attention" not in load(folder).summary
    (folder / "Train/a/1.dcm").touch()
    Image.new("L", (16, 16)).save(folder / "Train/a/black.png")
    summary = load(folder, validation_fraction=0.01).summary
    assert "1 nearly black images, such as a/black.png; left aside: 1 .dcm; no valid" in summary
    assert "no validation images" not in load(folder, validation_fraction=0.0).summary
    assert "\n" not in summary


def test_training_has_as_many_clients_as_there_are_folders(folder, monkeypatch, tmp_path):
    (folder / "Train").rename(folder / "client_3")
    seen = []

    def instead(job, resolved):
        seen.append((job.experiment.num_clients, resolved.trained.num_clients))
        return 0

    monkeypatch.setattr(train, "_train", instead)
    experiment = resolve.complete(Experiment())
    train.train(train.TrainJob(experiment, str(folder), "", tmp_path / "run"))
    assert seen == [(1, 1)]
