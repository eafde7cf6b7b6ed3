"""Classes that are spelled in several ways are refused, and a flag settles them."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedjax_med.cli import main as cli
from fedjax_med.data.datasets import image_folder
from fedjax_med.data.images import class_names
from fedjax_med.data.images.folders import scan
from fedjax_med.data.spelling import folded
from fedjax_med.errors import UserError

NFC = "na\u0308vus"
NFC, NFD = unicodedata.normalize("NFC", NFC), unicodedata.normalize("NFD", NFC)


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def refusal(root: Path, rename: str = "") -> str:
    with pytest.raises(UserError) as error:
        scan(str(root), rename)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("train/melanoma", "train/Melanoma", ("'train/melanoma'", "'train/Melanoma'")),
        ("train/nevus", "train/nevus ", ("'train/nevus'", "'train/nevus '")),
        ("train/basal cell", "test/basal_Cell", ("'train/basal cell'", "'test/basal_Cell'")),
        ("client_0/skin-tag", "client_1/skin_tag", ("'client_0/skin-tag'", "skin_tag'")),
        (f"train/{NFC}", f"train/{NFD}", (r"'train/n\xe4vus'", r"'train/na\u0308vus'")),
        ("train/Stra\u00dfe", "train/STRASSE", ("'train/Straße'", "'train/STRASSE'")),
        ("train/ab", "train/a\u200bb", ("'train/ab'", r"'train/a\u200bb'")),
        ("train/ab", "train/a\uff42", ("'train/ab'", "'train/a\uff42'")),
        ("train/a b", "train/a\u00a0b", ("'train/a b'", r"'train/a\xa0b'")),
    ],
)
def test_spellings_of_one_class_are_refused_and_the_flag_that_is_named_settles_them(
    tmp_path, one, other, both
):
    root = tree(tmp_path, f"{one}/1.png", f"{other}/1.png", f"{one.split('/')[0]}/x/1.png")
    message = refusal(root)
    assert all(name in message for name in both)
    (entry,) = message.rsplit(f"{class_names.FLAG}=", 1)[1].rstrip(".").strip("'").split(",")
    source = scan(str(root), entry)
    assert len(source.class_names) == 2
    same = [file for file in source.files if not file.name.startswith("x/")]
    assert len({file.label for file in same}) == 1
    assert len({(file.split, file.client, file.name) for file in same}) == 2  # as on the disk


def test_all_spellings_are_settled_by_one_flag(tmp_path):
    names = ["A, b", "a, B", "C", "c", "c ", "d"]
    root = tree(tmp_path, *(f"client_0/{name}/1.png" for name in [*names, "c"]))
    message = refusal(root)
    assert "and so do 1 more classes" in message
    flag = message.rsplit(f"{class_names.FLAG}='", 1)[1].removesuffix("'.")
    assert scan(str(root), flag).class_names == ("a, B", "c", "d")


def test_a_folder_may_be_given_any_class(tmp_path):
    root = tree(tmp_path, "train/-1/1.png", "train/1/1.png", "test/1/1.png")
    assert "differ only in the spelling" in refusal(root)
    source = scan(str(root), "-1=negative,1=positive")
    assert source.class_names == ("negative", "positive")
    assert [(file.name, file.label) for file in source.files] == [
        ("1/1.png", 1),
        ("-1/1.png", 0),
        ("1/1.png", 1),
    ]


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ("melanoma", "expected --config.dataset.options.rename='OLD=NEW,OLD=NEW', got 'melanoma'"),
        ("a=", "got 'a='"),
        ("mellanoma=melanoma", "no 'mellanoma' in the class folders .*mean 'melanoma'"),
    ],
)
def test_a_flag_that_names_nothing_is_refused(tmp_path, rename, message):
    root = tree(tmp_path, "train/melanoma/1.png", "train/a/1.png")
    with pytest.raises(UserError, match=message):
        scan(str(root), rename)


def test_other_names_stay_different():
    names = ["melanoma", "melanoma in situ", "nevus", "naevus", "grade 1", "grade 2", "basalcell"]
    assert len(set(map(folded, names))) == len(names)


def test_the_images_are_prepared_anew_under_another_name(tmp_path):
    for seed, name in enumerate(("a", "b", "c")):
        (tmp_path / "data/train" / name).mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data/train" / name / "1.png")
    for rename, labels in (("a=b", [0, 0, 1]), ("a=c", [1, 0, 1])):
        dataset = image_folder.build(
            str(tmp_path / "data"), str(tmp_path / "cache"), 16, rename=rename
        )
        assert dataset.class_names == ("b", "c")
        assert dataset.train.label.tolist() == labels


def test_the_command_line_takes_names_with_spaces_and_commas():
    text = 'nevus =nevus,"a, b=c",Melanoma=melanoma'
    _, flags = cli.parse("audit", [f"{class_names.FLAG}={text}"])
    assert flags.config.dataset.options["rename"] == text
