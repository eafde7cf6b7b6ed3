"""Images of one lesion or patient: where a table has them, and that no division separates them."""

import json

import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data import splits
from fedjax_med.data.audit.duplicates import joined
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, load_data, resolve
from fedjax_med.experiment.config import Experiment, Groups, Spec
from fedjax_med.run import provenance

SIZE = 16
# Train: 24 images of each class, two or three of a lesion. Test: 4 of each class, the first of
# which are of lesions that Train has, too.
LESIONS = {"Train": 10, "Test": 2}


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """A folder of drawn images, and beside it a table of their lesions, ``table.csv``."""
    rows, seed = ["image,lesion"], 0
    for split, count in (("Train", 24), ("Test", 4)):
        for label in "ab":
            for number in range(count):
                seed += 1
                name = f"{label}{number}{split[1]}"
                draw(tmp_path / "data" / split / label / f"{name}.png", seed)
                lesion = number % LESIONS[split]
                alone = (split == "Test" and number % 2) or number > 21
                rows.append(f"{name},{'' if alone else label + str(lesion)}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path / "data"


def experiment(folder, table="", **changes):
    groups = Groups(str(table or folder.parent / "table.csv"), "lesion")
    known = {"num_clients": 3, "image_size": SIZE, "groups": groups, "validation_fraction": 0.3}
    return resolve.settle(resolve.complete(Experiment(**(known | changes)))).asked


def load(folder, table="", **changes):
    given = experiment(folder, table, **changes)
    return load_data.load(given, str(folder), str(folder.parent / "cache"))


def lesions(split, index):
    return set(split.group[index].tolist()) - {""}


def apart(parts):
    """Whether no two of the sets have anything in common."""
    return sum(map(len, parts)) == len(set.union(*parts))


@pytest.mark.parametrize("name", ["equal", "dirichlet", "quantity", "labels_per_client"])
def test_a_group_is_in_one_client_and_in_one_of_its_parts(folder, name):
    data = load(folder, partition=Spec(name, {}), num_clients=2)
    parts = [
        lesions(data.train.split, part) for part in (*data.train.indices, *data.validation.indices)
    ]
    assert apart(parts)
    assert sum(map(len, parts)) == 20
    assert sum(map(len, parts[2:])) > 0
    without = load(folder, partition=Spec(name, {}), num_clients=2, groups=Groups())
    assert without.train.split.group is None
    assert without.mates is None


def test_a_group_is_in_one_fold_and_folds_stay_balanced(folder):
    tested, sizes = [], []
    for fold in range(4):
        data = load(folder, folds=4, fold=fold)
        tested.append(lesions(data.test, slice(None)))
        sizes.append(np.bincount(data.test.label).tolist())
        train = [lesions(data.train.split, part) for part in data.train.indices]
        assert apart([tested[-1], set.union(*train)])
        assert not data.mates.any()
    assert apart(tested)
    assert len(set.union(*tested)) == 20
    assert np.ptp(sizes, axis=0).max() <= 1
    assert np.sum(sizes) == 48


def test_training_images_of_a_tested_group_are_reported_or_dropped(folder):
    data = load(folder)
    held = data.test.group[data.mates].tolist()
    assert held == ["a0", "a0", "b0", "b0"]  # the others are alone
    assert (
        "12 training images of a lesion that is also in Test, such as a/a0r.png" not in data.summary
    )
    assert "6 training images of a lesion that is also in Test, such as a/a0r.png" in data.summary
    given = Groups(str(folder.parent / "table.csv"), "lesion", in_test="drop")
    dropped = load(folder, groups=given)
    assert not dropped.mates.any()
    assert "Left Train for a lesion that is also in Test: 6 images." in dropped.summary
    assert "also in Test, such as" not in dropped.summary
    assert dropped.train.split.num_examples == 42


def test_the_same_image_joins_two_groups(folder):
    """Lesion a1 and a2 have one photograph in common, under two names."""
    copied = (folder / "Train/a/a1r.png").read_bytes()
    (folder / "Train/a/a2r.png").write_bytes(copied)
    data = load(folder, policy="keep")
    split = data.train.split
    names = ("a1r", "a2r", "a11r", "a12r", "a21r")
    index = [np.flatnonzero(split.name == f"a/{name}.png")[0] for name in names]
    assert len({split.group[i] for i in index}) == 1
    owner = [c for i in index for c, part in enumerate(data.train.indices) if i in part]
    owner += [c for i in index for c, part in enumerate(data.validation.indices) if i in part]
    assert len(owner) == 5
    assert len(set(owner)) == 1


def test_numberings_are_joined_by_connected_components():
    one, other = np.array([0, 0, 1, 2, 3]), np.array([5, 6, 6, 7, 8])
    assert joined(one, other).tolist() == [0, 0, 0, 1, 2]
    assert joined(one).tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("Train/a/a0r.png", {"a/a0r.png"}),
        ("/disk/TRAIN/a/A0R.png", {"a/a0r.png"}),
        (r"C:\x\a\a0r", {"a/a0r.png"}),
        ("a0r", {"a/a0r.png"}),
        ("test/a/a0r", set()),
        ("b/a0r", set()),
    ],
)
def test_an_image_is_named_by_its_file_and_as_much_of_its_folders_as_is_written(
    folder, cell, found
):
    table = folder.parent / "one.csv"
    table.write_text(f"image;lesion\n{cell};L 1\nb1r;L 1\na1r;NA\na2r;nan\n")
    split = load(folder, table).train.split
    assert set(split.name[split.group == "L 1"].tolist()) == found | {"b/b1r.png"}
    assert (split.group == "").sum() == 48 - len(found) - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,site\na0r,1", "There is no 'lesion' in the columns of .*--config.groups.column"),
        ("file,lesion\na0r,1", "There is no 'image' in the columns of .*--config.groups.image"),
        ("image,lesion\nx0,1", "names none of the 56 images: .*it lists 'x0': set --config.groups"),
        ("image,lesion\na0r,", "names 1 of the 56 images, but gives none of them a lesion: set"),
        (
            "image,lesion\na0r,1\na1r,3\na0r.png,2",
            "one lesion for each image, got two of 'a0r.*': '[12]' in line [24] and '[12]' in line",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_told_in_one_line(folder, text, message):
    table = folder.parent / "bad.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load(folder, table)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (Groups(path="x.csv"), "groups.path=.*x.csv needs --config.groups.column"),
        (Groups(column="lesion"), "groups.column=lesion needs --config.groups.path"),
        (
            Groups("x.csv", "lesion", in_test="remove"),
            "no 'remove' in the values of --config.groups",
        ),
    ],
)
def test_groups_are_checked_before_the_data(folder, groups, message):
    with pytest.raises(UserError, match=message):
        experiment(folder, groups=groups)


def test_a_table_that_is_not_there_is_told_before_the_images_are_read(folder):
    with pytest.raises(UserError, match=r"absent.csv cannot be read: No such file.*groups.path"):
        load(folder, folder.parent / "absent.csv")
    assert not (folder.parent / "cache").exists()


def test_a_class_with_fewer_groups_than_folds_is_refused(folder):
    with pytest.raises(UserError, match="at most 12 folds, since 'a' has no more groups of train"):
        load(folder, folds=13)


def test_sites_that_separate_a_group_are_refused(folder):
    rows = [f"{path.stem},{path.stem[1]}" for path in sorted((folder / "Train").rglob("*.png"))]
    sites = folder.parent / "sites.csv"
    sites.write_text("\n".join(["image,site", *rows]))
    given = Spec("by_column", {"path": str(sites)})
    with pytest.raises(UserError, match=r"a/a0r.png and a/a10r.png are of the same group, 'a0' of"):
        load(folder, partition=given, num_clients=10)


def test_a_group_of_two_classes_fits_no_client_with_one_class(folder):
    table = folder.parent / "patients.csv"
    table.write_text("image,lesion\na0r,p1\nb0r,p1\n")
    with pytest.raises(
        UserError, match=r"labels of the group \(--config.groups\) of a/a0r.png and b"
    ):
        load(folder, table, partition=Spec("labels_per_client", {"k": 1}), num_clients=2)


def test_hospitals_keep_their_images_and_the_audit_names_shared_groups(folder, tmp_path):
    hospitals = tmp_path / "hospitals"
    for number, path in enumerate(sorted((folder / "Train").rglob("*.png"))):
        to = hospitals / ("Graz", "Lyon")[number % 2] / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
    data = load(hospitals, tmp_path / "table.csv", num_clients=2)
    found = data.findings.groups
    held = {one.group: {name.partition("/")[0] for name in one.train} for one in found.hospitals}
    assert held
    assert all(places == {"Graz", "Lyon"} for places in held.values())
    assert f"{len(held)} groups by lesion with images in more than one hospital" in data.summary
    assert data.train.sizes.sum() + data.validation.sizes.sum() == 48


def test_lines_may_name_the_hospital(folder, tmp_path):
    hospitals = tmp_path / "hospitals"
    for seed, place in enumerate(("Graz/a/1", "Graz/a/2", "Lyon/a/1", "Lyon/b/2", "Graz/b/3")):
        draw(hospitals / f"{place}.png", seed)
    table = tmp_path / "of_hospitals.csv"
    table.write_text("image,lesion\nGraz/a/1,x\nLyon/a/1,y\n2.png,z\n")
    data = load(hospitals, table, num_clients=2)
    assert data.train.split.group.tolist() == ["x", "z", "", "y", "z"]


def test_the_audit_counts_groups(folder, capsys):
    out = folder.parent / "audit.json"
    flags = [f"--data_dir={folder}", f"--config.image_size={SIZE}", f"--out={out}"]
    flags += [f"--cache_dir={folder.parent / 'cache'}", "--config.groups.column=lesion"]
    assert cli.main(["audit", *flags, f"--config.groups.path={folder.parent / 'table.csv'}"]) == 0
    said = capsys.readouterr().out
    assert "20  groups of images (48 of 56 images have a lesion; the others are alone)" in said
    assert "48  images in groups of two or more; the largest, 'a0', has 5" in said
    assert "6  images in Train whose lesion is also in Test" in said
    assert "lesion a0: a/a0r.png = test: a/a0e.png" in said
    found = json.loads(out.read_text())["groups"]
    assert (found["groups"], found["known"], found["together"]) == (20, 48, 48)
    assert len(found["train_in_test"]) == 6
    assert len(found["sha256"]) == 64


def test_the_partition_command_keeps_groups_together(folder, tmp_path):
    flags = [f"--data_dir={folder}", f"--config.image_size={SIZE}", f"--out={tmp_path / 'out'}"]
    flags += [f"--cache_dir={tmp_path / 'cache'}", "--config.num_clients=3"]
    flags += [f"--config.groups.path={tmp_path / 'table.csv'}", "--config.groups.column=lesion"]
    assert cli.main(["partition", *flags]) == 0
    listing = json.loads((tmp_path / "out/manifest.json").read_text())
    assert listing["groups"]["column"] == "lesion"
    whole, divided = load(folder), load(tmp_path / "out", tmp_path / "table.csv", num_clients=3)
    assert whole.digest == divided.digest
    assert divided.findings.groups.hospitals == ()
    assert sorted(divided.test.group[divided.mates]) == ["a0", "a0", "b0", "b0"]


def test_a_table_is_another_run_where_it_changes_the_division(folder):
    table = folder.parent / "table.csv"
    first, text = load(folder), table.read_text()
    moved = folder.parent / "moved.csv"
    moved.write_text(text.replace("lesion", "patient"))
    again = load(folder, groups=Groups(str(moved), "patient"))
    assert again.digest == first.digest
    one, other = (
        {"experiment": config.to_dict(experiment(folder, groups=groups)), "data": first.digest}
        for groups in (Groups(str(table), "lesion"), Groups(str(moved), "patient"))
    )
    assert provenance.differences(one, other) == []
    assert again.findings.groups.sha256 != first.findings.groups.sha256
    moved.write_text(text.replace("a1", "a2"))
    assert load(folder, moved).digest != first.digest


@pytest.mark.real_data
def test_lesions_of_the_real_set_are_not_separated(isic9_dir, isic9_metadata, tmp_path):
    given = Experiment(groups=Groups(str(isic9_metadata), "lesion"), image_size=16, num_clients=5)
    data = load_data.load(given, str(isic9_dir), str(tmp_path))
    assert int(data.mates.sum()) == 33
    split = data.train.split
    parts = [lesions(split, i) for i in (*data.train.indices, *data.validation.indices)]
    assert apart(parts)
    division = load_data.divide(given, str(isic9_dir), str(tmp_path))
    folds = splits.folds(split, division.groups, 5, 0)
    assert apart([lesions(split, fold) for fold in folds])
    sizes = np.array([np.bincount(split.label[fold], minlength=9) for fold in folds])
    assert np.ptp(sizes, axis=0).max() <= 3
    assert np.ptp(sizes.sum(axis=1)) <= 9
