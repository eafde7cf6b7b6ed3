"""The script that derives a table of corrections from official diagnoses."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import derive_corrections as script  # noqa: E402

from fedjax_med.data.corrections import table  # noqa: E402
from fedjax_med.data.images import folders  # noqa: E402


def diagnoses(**labels):
    return {image: script.Diagnosis(label, "list" * bool(label)) for image, label in labels.items()}


def test_a_diagnosis_of_another_class_is_official():
    places = {"a": {"mole"}, "b": {"mole"}, "c": {"mole", "spot"}, "d": {"spot"}}
    given = diagnoses(a="mole", b="spot", c="spot", d="", e="mole")
    assert script.derive(places, given) == [
        ("b", "spot", "official: list"),
        ("c", "spot", "official: list"),
    ]


def test_images_without_a_diagnosis_follow_those_beside_them():
    wart = {name: {"wart"} for name in "abc"}
    both = {name: {"mole", "spot"} for name in "de"}
    given = diagnoses(a="mole", b="mole", d="spot", f="mole", g="spot", h="")
    places = wart | both | {"f": {"mole"}, "g": {"spot"}, "h": {"mole"}}
    rows = {row.image: row for row in script.derive(places, given)}
    assert rows.keys() == set("abcde")
    assert rows["c"][1:] == ("mole", "inferred: every diagnosed image of wart is mole")
    assert rows["e"][1:] == (
        "spot",
        "inferred: every diagnosed image in both mole and spot is spot",
    )
    # Diagnoses that differ tell nothing.
    assert "c" not in {row.image for row in script.derive(places, given | diagnoses(b="spot"))}


@pytest.mark.real_data
def test_the_table_of_the_package_is_what_the_script_derives(isic9_dir, tmp_path):
    metadata = isic9_dir.parent / "isic9_metadata.csv"
    if not metadata.exists():
        pytest.skip(f"there is no {metadata}")
    places: dict[str, set[str]] = {}
    for file in folders.scan(str(isic9_dir)).files:
        places.setdefault(file.path.stem, set()).add(file.path.parent.name)
    classes = dict(one.split("=") for one in script._CLASSES.default)
    script.write(script.derive(places, script.read(str(metadata), classes)), tmp_path / "made.csv")
    assert (tmp_path / "made.csv").read_bytes() == table.SHIPPED["isic9"].read_bytes()
