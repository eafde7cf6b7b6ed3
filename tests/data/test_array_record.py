"""Prepared images: what is damaged is known to be so before it is removed, and nothing else is."""

import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from test_image_folder import build, prepared, write_image

from fedjax_med.data.datasets import image_folder, lesions
from fedjax_med.data.images import checksums, holding, load
from fedjax_med.data.images.array_record import Builder
from fedjax_med.errors import UserError

FAULTS = [ImportError, AttributeError, TypeError, NameError, ValueError, RuntimeError, KeyError]


@pytest.fixture
def folder(tmp_path):
    """Two classes with two train images each, and a test image; none of them prepared."""
    for seed, name in enumerate(
        ["Train/a/1.png", "Train/a/2.png", "Train/b/1.png", "Train/b/2.png", "Test/a/1.png"]
    ):
        write_image(tmp_path / "data" / name, seed)
    return tmp_path / "data"


@pytest.fixture
def there(folder):
    """Where the images of `folder` were prepared."""
    build(folder)
    (found,) = prepared(folder)
    return found


def on_disk(root: Path):
    return image_folder.build(str(root), str(root.parent / "cache"), 16, "disk")


def content(there: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in there.iterdir()}


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def records_of(there: Path, split: str = "train") -> Path:
    (file,) = there.glob(f"*-{split}.array_record*")
    return file


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["as_data_source", "__init__"])
def test_a_fault_of_the_program_is_raised_as_it_is_and_removes_nothing(
    folder, there, monkeypatch, fault, place
):
    before = content(there)

    def fail(*arguments, **options):
        raise fault("of the program")

    monkeypatch.setattr(Builder, place, fail)
    with pytest.raises(fault, match="of the program"):
        build(folder)
    assert content(there) == before


@pytest.mark.parametrize("fault", [ImportError, TypeError, RuntimeError])
def test_a_fault_while_images_are_read_from_disk_is_raised_as_it_is(folder, monkeypatch, fault):
    image = on_disk(folder).train.image
    (there,) = prepared(folder)
    before = content(there)

    def fail(positions):
        raise fault("of the program")

    monkeypatch.setattr(image, "_reader", type("", (), {"__getitems__": staticmethod(fail)})())
    with pytest.raises(fault, match="of the program"):
        np.asarray(image)
    assert content(there) == before


DAMAGES = {
    "fewer images": lambda there: (there / "dataset_info.json").write_text(
        (there / "dataset_info.json").read_text().replace('"4"', '"3"')
    ),
    "no splits": lambda there: (there / "dataset_info.json").write_text("{}"),
    "cut info": lambda there: os.truncate(there / "dataset_info.json", 100),
    "empty info": lambda there: os.truncate(there / "dataset_info.json", 0),
    "no info": lambda there: (there / "dataset_info.json").unlink(),
    "other features": lambda there: flip(there / "features.json", 200),
    "no features": lambda there: (there / "features.json").unlink(),
    "a bit of a record": lambda there: flip(records_of(there), 300),
    "a bit of a large record": lambda there: flip(records_of(there), 300),
    "cut records": lambda there: os.truncate(records_of(there), 100),
    "empty records": lambda there: os.truncate(records_of(there), 0),
    "longer records": lambda there: records_of(there).write_bytes(
        records_of(there).read_bytes() + bytes(65536)
    ),
    "no records": lambda there: records_of(there).unlink(),
    "no records of test": lambda there: records_of(there, "test").unlink(),
    "a folder": lambda there: [(f := records_of(there)).unlink(), f.mkdir()],
    "a pipe": lambda there: [(f := records_of(there)).unlink(), os.mkfifo(f)],
    "no checksums": lambda there: (there / checksums.NAME).unlink(),
    "fewer images and no checksums": lambda there: [
        (there / checksums.NAME).unlink(),
        DAMAGES["fewer images"](there),
    ],
    "cut checksums": lambda there: os.truncate(there / checksums.NAME, 100),
    "empty checksums": lambda there: os.truncate(there / checksums.NAME, 0),
    "other checksums": lambda there: (there / checksums.NAME).write_text("[3]"),
    "deep checksums": lambda there: (there / checksums.NAME).write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_known_damage_is_told_and_the_images_are_prepared_anew(
    folder, there, monkeypatch, capsys, damage
):
    if "large" in damage:  # so that its content is not checked each time, but when reading fails
        monkeypatch.setattr(checksums, "_SMALL", 4000)
    before = content(there)
    DAMAGES[damage](there)
    capsys.readouterr()
    assert build(folder).train.num_examples == 4
    told, preparing = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"The prepared images in .* are damaged \(.*\): preparing them anew.", told)
    assert preparing.startswith("Preparing 5 images")
    assert prepared(folder) == {there}
    assert content(there).keys() == before.keys()
    build(folder)
    assert capsys.readouterr().err == ""


def test_damage_of_what_is_read_last_is_mended_where_images_stay_on_disk(folder):
    """What was read before it does not hold the folder any more."""
    on_disk(folder)
    (there,) = prepared(folder)
    flip(records_of(there, "test"), 300)
    used = on_disk(folder)
    assert np.asarray(used.test.image).shape == (1, 16, 16, 3)


def test_images_that_are_damaged_again_when_just_prepared_end_the_run(folder, there, monkeypatch):
    def damaged(folder, thorough=False):
        raise checksums.DamagedError(folder, "x has other bytes")

    monkeypatch.setattr(checksums, "check", damaged)
    with pytest.raises(UserError, match="are damaged"):
        build(folder)


def test_what_was_swapped_between_splits_is_noticed(folder, there, capsys):
    """Each is a sound file of the same size; its checksums are another's."""
    train, test = records_of(there), records_of(there, "test")
    data = train.read_bytes()
    size = max(len(data), test.stat().st_size)
    assert size == test.stat().st_size
    train.write_bytes(test.read_bytes())
    test.write_bytes(data)
    capsys.readouterr()
    assert build(folder).train.num_examples == 4
    assert "damaged" in capsys.readouterr().err


def test_known_damage_stays_while_another_run_reads_it(folder):
    used = on_disk(folder)
    (there,) = prepared(folder)
    (there / "features.json").unlink()
    with pytest.raises(UserError, match="stay, since another run may read them"):
        build(folder)
    assert records_of(there).exists()
    assert np.asarray(used.train.image).shape == (4, 16, 16, 3)
    del used
    assert build(folder).train.num_examples == 4


def test_damage_that_comes_while_images_are_read_from_disk_is_told_and_mended_by_the_next_run(
    folder,
):
    used = on_disk(folder)
    (there,) = prepared(folder)
    flip(records_of(there), 300)
    with pytest.raises(UserError, match=r"are damaged .*has other bytes.*run again") as told:
        np.asarray(used.train.image)
    assert "\n" not in str(told.value)
    assert there.exists()
    del used, told
    gc.collect()  # the traceback has the reader
    assert build(folder).train.num_examples == 4


def test_a_file_system_that_fails_removes_nothing(folder, there, monkeypatch):
    before = content(there)

    def fail(folder, thorough=False):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checksums, "check", fail)
    with pytest.raises(
        UserError, match=r"try again, and if it stays so remove that folder .*Input"
    ):
        build(folder)
    assert content(there) == before


def test_drawn_images_are_checked_as_well(tmp_path, capsys):
    def draw():
        return lesions.build("", str(tmp_path), 16, train_size=9, test_size=9)

    draw()
    (info,) = tmp_path.rglob("dataset_info.json")
    info.write_text(info.read_text().replace('"9"', '"8"'))
    capsys.readouterr()
    assert draw().train.num_examples == 9
    assert "are damaged (dataset_info.json has other bytes): prep" in capsys.readouterr().err


def test_the_checksums_are_of_all_files_and_on_the_disk_before_the_folder_has_its_name(
    folder, monkeypatch
):
    calls, fsync, rename = [], os.fsync, Path.rename

    def synced(descriptor):
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(self, target):
        calls.append(f"rename {Path(target).name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    build(folder)
    (there,) = prepared(folder)
    listed = json.loads((there / checksums.NAME).read_text())["files"]
    assert set(listed) | {checksums.NAME} == {path.name for path in there.iterdir()}
    at = calls.index(f"rename {there.name}")
    assert {path.name for path in there.iterdir()} | {there.name} <= set(calls[:at])
    assert calls[at + 1] == "class_folders"


def test_preparing_leaves_nothing_in_the_temporary_folder(folder, monkeypatch, tmp_path):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    build(folder)
    assert not list((tmp_path / "temporary").iterdir())


def test_what_a_killed_run_left_goes_even_if_another_has_prepared_the_images(folder, there):
    left = there.parent.parent / "unfinished_x"
    (left / "deep").mkdir(parents=True)
    build(folder)
    assert not left.exists()
    assert there.exists()


def test_a_fault_of_the_program_while_preparing_is_raised_as_it_is(folder, monkeypatch):
    def fail(self, file):
        raise TypeError("of the program")

    monkeypatch.setattr(load.ClassFolders, "_record", fail)
    with pytest.raises(TypeError, match="of the program"):
        build(folder)
    monkeypatch.undo()
    assert build(folder).train.num_examples == 4
    assert not list((folder.parent / "cache").rglob("unfinished*"))


def test_a_run_that_prepares_other_images_does_not_remove_what_another_one_is_preparing(
    folder, monkeypatch, capsys
):
    """The images change while they are prepared, and a run of the new ones ends first."""
    write, other = load.ClassFolders._record, []

    def overtake(self, file):
        if not other:
            other.append(None)
            write_image(folder / "Train/a/3.png", 9)
            other.append(build(folder))
        return write(self, file)

    monkeypatch.setattr(load.ClassFolders, "_record", overtake)
    assert build(folder).train.num_examples == 4
    assert other[1].train.num_examples == 5
    assert "another run may read it" in capsys.readouterr().err


def test_a_run_that_ends_first_does_not_remove_what_another_one_writes_of_the_same(
    folder, monkeypatch
):
    write, seen = load.ClassFolders._record, []

    def overtake(self, file):
        if not seen:
            mine = set((folder.parent / "cache").rglob("unfinished_*"))
            seen.append(mine)
            build(folder)
            assert set((folder.parent / "cache").rglob("unfinished_*")) == mine
        return write(self, file)

    monkeypatch.setattr(load.ClassFolders, "_record", overtake)
    assert build(folder).train.num_examples == 4
    assert len(seen[0]) == 1
    assert not list((folder.parent / "cache").rglob("unfinished_*"))


AT_ONCE = """
import sys, time
from pathlib import Path
from fedjax_med.data.images import load as records
from fedjax_med.data.datasets import image_folder
write = records.ClassFolders._record
def slow(self, file):
    time.sleep(0.2)
    return write(self, file)
records.ClassFolders._record = slow
Path(sys.argv[3], f"ready_{sys.argv[4]}").touch()
while len(list(Path(sys.argv[3]).glob("ready_*"))) < 2:
    time.sleep(0.01)
print(image_folder.build(sys.argv[1], sys.argv[2], 16).train.num_examples)
"""


def test_two_processes_prepare_the_same_images_at_once(folder):
    cache = folder.parent / "cache"
    command = [sys.executable, "-c", AT_ONCE, str(folder), str(cache), str(folder.parent)]
    runs = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(2)
    ]
    assert [run.communicate(timeout=120)[0] for run in runs] == ["4\n", "4\n"]
    assert len(prepared(folder)) == 1
    assert not list(cache.rglob("unfinished_*"))


def test_what_this_program_has_not_made_stays_in_the_cache(folder, there):
    home = there.parent.parent.parent
    (home / "notes").mkdir()
    (home / "notes" / "mine").write_text("mine")
    (home / "file").write_text("mine")
    away = folder.parent / "away"
    away.mkdir()
    (away / "mine").write_text("mine")
    (home / ("0" * 16)).symlink_to(away)
    write_image(folder / "Train/a/3.png", 9)
    assert build(folder).train.num_examples == 5
    assert not there.exists()
    assert {path.name for path in home.iterdir()} >= {"notes", "file", "0" * 16}
    assert (home / "notes" / "mine").exists()
    assert (away / "mine").exists()


def test_a_folder_cannot_be_held_while_it_is_removed(tmp_path, monkeypatch):
    """The lock lasts as long as the removal, or who holds it meanwhile loses what is in it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    held, remove = threading.Event(), shutil.rmtree

    def other():
        with holding.held(shared):
            held.set()
            (shared / "work").touch()

    thread = threading.Thread(target=other)

    def slowly(folder, **options):
        thread.start()
        assert not held.wait(0.5)
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    holding.remove_unused(shared)
    thread.join(10)
    assert (shared / "work").exists()  # in a folder that was made anew


def test_what_is_asked_for_under_the_lock_decides(tmp_path):
    (tmp_path / "a").mkdir()
    assert not holding.remove_unused(tmp_path / "a", lambda: False)
    assert (tmp_path / "a").exists()
    assert holding.remove_unused(tmp_path / "a", lambda: True)
    assert holding.remove_unused(tmp_path / "a")  # is gone
    with holding.held(tmp_path / "b"):
        assert not holding.remove_unused(tmp_path / "b")
    assert holding.remove_unused(tmp_path / "b")
