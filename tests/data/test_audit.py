import json
import time

import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data.audit import duplicates, report
from fedjax_med.data.audit import findings as audit
from fedjax_med.data.dataset import Dataset, Split, Unreadable
from fedjax_med.data.datasets import image_folder, isic9
from fedjax_med.errors import UserError
from fedjax_med.experiment import components
from fedjax_med.experiment.config import Spec


def photograph(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)


# Three classes; a number is a picture, and the same number is the same bytes.
# Train: common 6, middle 4, rare 3.
PLANTED = {
    "train/common": {"c1": 1, "c2": 2, "c3": 3, "c4": 4, "c5": 5, "c6": 5},
    "train/middle": {"m1": 11, "m2": 12, "m3": 1, "m4": 2},
    "train/rare": {"r1": 21, "r2": 1, "r3": 22},
    "test/common": {"t1": 3, "t2": 91, "t3": 92},
    "test/middle": {"t1": 4, "t2": 93, "t3": 92},
    "test/rare": {"t1": 94, "t2": 94},
}
# 1 is common, middle and rare; 2 is common and middle; 5 is twice in common. Of Train's copies of
# test images 3 (c3) has the same label and 4 (c4) another. In Test 92 has two labels, 94 is double.


@pytest.fixture
def planted(tmp_path):
    for folder, pictures in PLANTED.items():
        (tmp_path / "data" / folder).mkdir(parents=True)
        for name, picture in pictures.items():
            photograph(picture).save(tmp_path / "data" / folder / f"{name}.png")
    return tmp_path / "data"


def build(root) -> Dataset:
    return image_folder.build(str(root), str(root.parent / "cache"), 32)


def sizes(dataset: Dataset) -> list[int]:
    return np.bincount(dataset.train.label, minlength=len(dataset.class_names)).tolist()


def images_of(findings) -> list[tuple]:
    return [(image.classes, image.train, image.test) for image in findings]


def test_nearly_black_images_are_found(tmp_path):
    dataset = components.build(
        "datasets", Spec("lesions", {"train_size": 9, "test_size": 9}), "", str(tmp_path), 16
    )
    assert audit.find(dataset).dark == ()
    dataset.train.image[4] = np.minimum(dataset.train.image[4], 16)
    dataset.test.image[2] = 0
    found = audit.find(dataset)
    assert found.dark == (str(dataset.train.name[4]), str(dataset.test.name[2]))
    assert "    2  nearly black" in report.table(found)


def test_every_planted_fault_is_found_and_nothing_else(planted):
    found = audit.find(build(planted))
    assert found.train_sizes == (6, 4, 3)
    assert found.test_sizes == (3, 3, 2)
    assert images_of(found.train_contradictions) == [
        (
            ("common", "middle", "rare"),
            ("common/c1.png", "middle/m3.png", "rare/r2.png"),
            (),
        ),
        (("common", "middle"), ("common/c2.png", "middle/m4.png"), ()),
    ]
    assert images_of(found.train_copies) == [(("common",), ("common/c5.png", "common/c6.png"), ())]
    assert images_of(found.leaks_same_label) == [
        (("common",), ("common/c3.png",), ("common/t1.png",))
    ]
    assert images_of(found.leaks_other_label) == [
        (("common", "middle"), ("common/c4.png",), ("middle/t1.png",))
    ]
    assert images_of(found.test_contradictions) == [
        (("common", "middle"), (), ("common/t3.png", "middle/t3.png"))
    ]
    assert images_of(found.test_copies) == [(("rare",), (), ("rare/t1.png", "rare/t2.png"))]
    assert found.near_duplicates == ()
    assert found.unreadable == ()


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("keep", [6, 4, 3]),
        # c3 and c4 are in Test; c1 m3 r2 and c2 m4 contradict; c6 is a copy.
        ("drop", [1, 2, 2]),
        # picture 1 stays in rare, picture 2 in middle; c6 is a copy.
        ("rarest", [1, 3, 3]),
    ],
)
def test_each_policy_leaves_what_was_counted_by_hand(planted, policy, expected):
    dataset = build(planted)
    cleaned, line = audit.clean(dataset, audit.find(dataset), policy)
    assert sizes(cleaned) == expected
    assert policy in line
    assert "\n" not in line
    for one, other in zip(cleaned.test, dataset.test, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_rarer_class_wins_and_its_first_copy_stays(planted):
    dataset = build(planted)
    cleaned, line = audit.clean(dataset, audit.find(dataset), "rarest")
    assert cleaned.train.name.tolist() == [
        "common/c5.png",
        *("middle/m1.png", "middle/m2.png", "middle/m4.png"),
        *("rare/r1.png", "rare/r2.png", "rare/r3.png"),
    ]
    assert "7 of 13 train images stay" in line
    assert "2 copies of test images, 3 under a contradicted label, 1 further copies" in line


@pytest.mark.parametrize("policy", ["drop", "rarest"])
def test_a_cleaned_set_has_no_more_faults_in_train(planted, policy):
    dataset = build(planted)
    cleaned, _ = audit.clean(dataset, audit.find(dataset), policy)
    found = audit.find(cleaned)
    assert found.train_contradictions == found.train_copies == ()
    assert found.leaks_other_label == found.leaks_same_label == ()
    assert sizes(audit.clean(cleaned, found, policy)[0]) == sizes(cleaned)


def test_near_duplicates_are_found_kept_in_train_and_kept_out_of_it_by_test(planted):
    photograph(11).resize((50, 50)).save(planted / "train/middle/m1_small.jpg", quality=85)
    photograph(91).save(planted / "train/rare/r4.jpg", quality=85)  # looks like common/t2 of Test
    dataset = build(planted)
    found = audit.find(dataset)
    assert images_of(found.near_duplicates) == [
        (("middle",), ("middle/m1.png", "middle/m1_small.jpg"), ()),
        (("common", "rare"), ("rare/r4.jpg",), ("common/t2.png",)),
    ]
    names = audit.clean(dataset, found, "rarest")[0].train.name.tolist()
    assert "middle/m1_small.jpg" in names
    assert "rare/r4.jpg" not in names


def test_the_same_image_in_two_clients_is_named_with_its_client(tmp_path):
    for client, picture in ((0, 1), (1, 1), (1, 2)):
        path = tmp_path / f"data/client_{client}/a/{picture}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(picture).save(path)
    dataset = build(tmp_path / "data")
    found = audit.find(dataset)
    assert found.train_copies[0].train == ("client_0/a/1.png", "client_1/a/1.png")
    assert audit.clean(dataset, found, "rarest")[0].train.client.tolist() == [0, 1]


def split_of(image: np.ndarray, image_hash: np.ndarray, sha256: list[str]) -> Split:
    count = len(sha256)
    return Split(
        image=image,
        label=np.zeros(count, np.int32),
        name=np.array([f"a/{i}" for i in range(count)]),
        sha256=np.array(sha256),
        image_hash=image_hash,
        client=np.full(count, -1, np.int32),
    )


def test_duplicate_groups_are_connected_components_of_near_hashes():
    image = np.zeros((6, 8, 8, 3), np.uint8)
    bits = np.zeros((6, 256), bool)
    bits[1, :10] = True  # 10 bits from 0
    bits[2, :20] = True  # 10 bits from 1, 20 from 0
    bits[3, 100:111] = True  # 11 bits from 0
    bits[4] = True
    bits[5, 200:] = True
    groups = duplicates.duplicate_groups(split_of(image, np.packbits(bits, axis=1), list("abcded")))
    assert groups.tolist() == [0, 0, 0, 1, 2, 1]  # 5 has the bytes of 3
    assert groups.dtype == np.int32


def test_images_without_structure_are_told_apart_by_their_pixels():
    # A flat image has no edges, so that all flat images have the hash 0.
    image = np.zeros((3, 8, 8, 3), np.uint8) + np.array([0, 10, 40], np.uint8)[:, None, None, None]
    split = split_of(image, np.zeros((3, 32), np.uint8), list("abc"))
    assert duplicates.duplicate_groups(split).tolist() == [0, 0, 1]


def test_near_hashes_are_all_pairs_within_the_distance_each_once():
    rng = np.random.default_rng(0)
    count = 300
    bits = rng.random((count, 256)) < 0.5
    for row in range(150, count):  # copies with 0 to 14 bits turned, of one another too
        bits[row] = bits[row - 100]
        bits[row, rng.permutation(256)[: row % 15]] ^= True
    bits[:40] = bits[0]  # many that are the same
    distance = (bits[:, None] != bits[None]).sum(axis=2)
    expected = {(i, j) for i, j in zip(*np.nonzero(distance <= 10), strict=True) if i < j}
    blocks = list(duplicates._near_hashes(np.packbits(bits, axis=1)))
    found = [tuple(sorted(pair)) for block in blocks for pair in block.T.tolist()]
    assert len(found) == len(set(found)) > 800
    assert set(found) == expected


def test_groups_are_those_of_all_pairs():
    """Images of few hashes and few colours, compared pair by pair and by the audit."""
    rng = np.random.default_rng(0)
    count = 700  # more than are held in memory
    bits = np.zeros((count, 256), bool)
    for row in range(count):
        bits[row, : 6 * rng.integers(5)] = True
    image = np.repeat(rng.integers(0, 256, (count, 2, 1, 3)), 4, axis=2).astype(np.uint8)
    image[::3] = image[0]
    image = np.clip(image + rng.integers(-8, 9, image.shape), 0, 255).astype(np.uint8)
    near = (bits[:, None] != bits[None]).sum(axis=2) <= 10
    near &= np.abs(image[:, None].astype(int) - image[None]).mean(axis=(2, 3, 4)) <= 16
    expected = np.arange(count)
    for _ in range(count):
        least = np.where(near, expected[None], count).min(axis=1)
        if (least == expected).all():
            break
        expected = least
    found = duplicates.duplicate_groups(
        split_of(image, np.packbits(bits, axis=1), [f"{i:03}" for i in range(count)])
    )
    assert 10 < len(np.unique(found)) < 600
    np.testing.assert_array_equal(found, np.unique(expected, return_inverse=True)[1])


def test_each_of_many_images_of_one_hash_is_compared_with_few():
    """Nearly black images, as of a scanner without a slide; all pairs would be 50 million."""
    count = 10_000
    image = np.random.default_rng(0).integers(0, 9, (count, 8, 8, 3), dtype=np.uint8)
    start = time.process_time()
    found = duplicates.duplicate_groups(
        split_of(image, np.zeros((count, 32), np.uint8), [f"{i:05}" for i in range(count)])
    )
    assert (found == 0).all()
    assert time.process_time() - start < 5


def test_images_of_all_parts_are_compared_and_only_candidates_are_read():
    class Watched:
        def __init__(self, image):
            self.image, self.shape, self.read = image, image.shape, []

        def __len__(self):
            return len(self.image)

        def __getitem__(self, index):
            self.read += index.tolist()
            return self.image[index]

    image_hash = np.random.default_rng(0).integers(0, 256, (1300, 32), dtype=np.uint8)
    image_hash[1299] = image_hash[3]
    image_hash[1298] = image_hash[700]
    image = np.zeros((1300, 1, 1, 3), np.uint8)
    parts = (Watched(image[:1000]), Watched(image[1000:]))
    sha256 = np.array([f"{i:04}" for i in range(1300)])
    _, near = duplicates.number(sha256, image_hash, parts)
    assert near[1299] == near[3]
    assert near[1298] == near[700]
    assert len(np.unique(near)) == 1298
    assert sorted(parts[0].read) == [3, 700]
    assert sorted(parts[1].read) == [298, 299]


def test_an_empty_split_has_no_groups():
    empty = split_of(np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 32), np.uint8), [])
    assert duplicates.duplicate_groups(empty).shape == (0,)


def test_unreadable_files_stop_keep_and_unreadable_test_files_stop_every_policy(planted):
    (planted / "train/common/broken.png").write_bytes(b"no image")
    dataset = build(planted)
    found = audit.find(dataset)
    assert found.unreadable == (
        Unreadable("train", "common/broken.png", "not an image of a known format"),
    )
    with pytest.raises(
        UserError, match=r"1 unreadable file, and policy 'keep'.*common/broken\.png"
    ):
        audit.clean(dataset, found, "keep")
    for policy in ("drop", "rarest"):
        cleaned, line = audit.clean(dataset, found, policy)
        assert "1 unreadable" in line
        assert cleaned.unreadable == ()
    (planted / "test/rare/broken.png").write_bytes(b"no image")
    dataset = build(planted)
    for policy in ("drop", "rarest"):
        with pytest.raises(UserError, match=r"Test must stay whole.*rare/broken\.png"):
            audit.clean(dataset, audit.find(dataset), policy)


def test_a_class_that_cleaning_empties_is_named(planted):
    for name in ("r1", "r3"):
        (planted / f"train/rare/{name}.png").unlink()
    dataset = build(planted)
    with pytest.raises(UserError, match="no train image in class 'rare'"):
        audit.clean(dataset, audit.find(dataset), "drop")
    assert sizes(audit.clean(dataset, audit.find(dataset), "rarest")[0])[2] == 1


def test_an_unknown_policy_names_the_nearest(planted):
    dataset = build(planted)
    with pytest.raises(UserError, match="Did you mean 'rarest'"):
        audit.clean(dataset, audit.find(dataset), "rarer")


def test_small_and_absent_classes_are_flagged(planted):
    for path in (planted / "test/rare").iterdir():
        path.unlink()
    found = audit.find(build(planted))
    rare = next(line for line in report.table(found).splitlines() if line.startswith("  rare"))
    assert "few train images, no test images" in rare
    assert report.to_json(found)["classes"][2]["remark"] == "few train images, no test images"


def test_the_json_holds_everything_and_the_table_ten_examples():
    same = [audit.SameImage(("a", "b"), (f"a/{i}", f"b/{i}"), ()) for i in range(62)]
    nothing = split_of(np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 32), np.uint8), [])
    empty = audit.find(Dataset("toy", ("a", "b"), nothing, nothing))
    found = empty._replace(train_contradictions=tuple(same))
    content = json.loads(json.dumps(report.to_json(found)))
    finding = content["findings"]["train_contradictions"]
    assert finding["count"] == len(finding["images"]) == 62
    assert finding["by_classes"] == [{"classes": ["a", "b"], "count": 62}]
    lines = report.table(found, more="x.json").splitlines()
    assert sum(" = " in line for line in lines) == 10
    assert any(line.endswith("... and 52 more, see x.json") for line in lines)


def test_the_command_prints_the_table_and_writes_the_json(planted, tmp_path, capsys):
    (planted / "test/rare/broken.png").write_bytes(b"no image")
    out = tmp_path / "new" / "audit.json"
    arguments = [f"--data_dir={planted}", f"--cache_dir={tmp_path / 'cache'}", f"--out={out}"]
    assert cli.main(["audit", *arguments, "--config.image_size=32"]) == 0
    printed = capsys.readouterr().out
    assert "2  images in Train under more than one label" in printed
    assert "Policy rarest: not possible: 1 unreadable file" in printed
    assert str(out) in printed
    content = json.loads(out.read_text())
    assert content["findings"]["leaks_other_label"]["count"] == 1
    assert content["unreadable"][0]["name"] == "rare/broken.png"
    assert [path.name for path in out.parent.iterdir()] == ["audit.json"]


def test_the_command_tells_mistakes_in_one_line(planted, tmp_path, capsys):
    assert cli.main(["audit"]) == 2
    assert "--data_dir=FOLDER" in capsys.readouterr().err
    arguments = [f"--data_dir={planted}", f"--cache_dir={tmp_path / 'cache'}"]
    assert cli.main(["audit", *arguments, f"--out={planted}/train/common/c1.png/x.json"]) == 2
    assert "is a file" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.real_data
def test_the_real_set_has_the_known_faults(isic9_dir, tmp_path):
    dataset = isic9.build(str(isic9_dir), str(tmp_path), 64)
    found = audit.find(dataset)
    by_classes = {
        key: {tuple(pair["classes"]): pair["count"] for pair in finding["by_classes"]}
        for key, finding in report.to_json(found)["findings"].items()
    }
    keratosis_nevus = ("actinic keratosis", "nevus")
    melanoma_keratosis = ("melanoma", "seborrheic keratosis")
    assert by_classes == {
        "train_contradictions": {melanoma_keratosis: 75, keratosis_nevus: 62},
        "train_copies": {("basal cell carcinoma",): 2, ("melanoma",): 1, ("nevus",): 1},
        "leaks_other_label": {keratosis_nevus: 15, melanoma_keratosis: 3},
        "leaks_same_label": {},
        "test_contradictions": {},
        "test_copies": {},
        "near_duplicates": {("melanoma",): 2, melanoma_keratosis: 1},
    }
    assert found.train_sizes == (114, 378, 95, 438, 357, 462, 77, 181, 139)
    assert found.test_sizes == (16, 16, 16, 16, 16, 16, 3, 16, 3)
    assert found.unreadable == ()
    rarest, _ = audit.clean(dataset, found, "rarest")
    assert rarest.train.num_examples == 2082
    assert sizes(rarest) == [114, 376, 95, 359, 279, 462, 77, 181, 139]
    assert rarest.test.num_examples == 118
    drop, _ = audit.clean(dataset, found, "drop")
    # 62 contradictions leave actinic keratosis and 75 leave seborrheic keratosis as well.
    assert sizes(drop) == [52, 376, 95, 359, 279, 462, 2, 181, 139]
