import numpy as np
import pytest
from PIL import Image

from fedjax_med.errors import UserError
from fedjax_med.experiment import load_data, resolve
from fedjax_med.experiment.config import Experiment, Spec


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
    assert load_data._digest(split, part, "") != load_data._digest(wrong, part, "")


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
