import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import hostile
import numpy as np
import pytest
from PIL import Image

from fedjax_med.data.audit import findings, report
from fedjax_med.data.datasets import image_folder, isic9
from fedjax_med.data.images import decode, load
from fedjax_med.data.images.folders import scan
from fedjax_med.errors import UserError


def write_image(path: Path, seed: int = 0, side: int = 20) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes with three and two train images, and one test image each."""
    root = tmp_path / "data"
    for seed, name in enumerate(
        ["Train/b/1.png", "Train/b/3.png", "Train/b/2.png", "Train/a/9.png", "Train/a/8.png"]
        + ["Test/a/1.png", "Test/b/1.png"]
    ):
        write_image(root / name, seed)
    return root


def build(root: Path, image_size: int = 16):
    return image_folder.build(str(root), str(root.parent / "cache"), image_size)


def prepared(root: Path) -> set[Path]:
    return {path.parent for path in (root.parent / "cache").rglob("dataset_info.json")}


def test_every_field_comes_back_sorted_by_name(folder):
    dataset = build(folder)
    assert dataset.name == "image_folder"
    assert dataset.class_names == ("a", "b")
    assert dataset.unreadable == ()
    train = dataset.train
    assert train.name.tolist() == ["a/8.png", "a/9.png", "b/1.png", "b/2.png", "b/3.png"]
    assert train.label.tolist() == [0, 0, 1, 1, 1]
    assert train.client.tolist() == [-1] * 5
    assert dataset.test.name.tolist() == ["a/1.png", "b/1.png"]
    for index, name in enumerate(train.name):
        data = (folder / "Train" / name).read_bytes()
        decoded = decode.decode(data)
        assert train.sha256[index] == hashlib.sha256(data).hexdigest()
        np.testing.assert_array_equal(train.image[index], decode.resize(decoded, 16))
        np.testing.assert_array_equal(train.image_hash[index], decode.perceptual_hash(decoded))
    assert [field.dtype for field in train[:2]] == [np.uint8, np.int32]
    assert train.image_hash.dtype == np.uint8
    assert train.client.dtype == np.int32


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("TRAIN", "tEST")])
def test_split_folders_and_extensions_may_be_in_any_letter_case(tmp_path, train, test):
    for name in ("x.JPG", "x.jpeg", "x.Png", "x.bmp", "x.GIF", "x.tif", "x.TIFF", "x.webp"):
        write_image(tmp_path / "data" / train / "a" / name)
    write_image(tmp_path / "data" / test / "a" / "x.png")
    dataset = build(tmp_path / "data")
    assert (dataset.train.num_examples, dataset.test.num_examples) == (8, 1)
    assert dataset.unreadable == ()


def test_without_a_test_folder_the_test_split_is_empty(folder):
    shutil.rmtree(folder / "Test")
    test = build(folder).test
    assert test.num_examples == 0
    assert test.image.shape == (0, 16, 16, 3)
    assert test.image_hash.shape == (0, 32)


def test_hidden_files_and_other_files_are_ignored(folder):
    (folder / "Train/a/notes.txt").write_text("not an image")
    (folder / "Train/a/.hidden.png").write_text("not an image")
    (folder / "Train/.cache").mkdir()
    (folder / "Train/a/deeper.png").mkdir()
    (folder / "README.md").write_text("about")
    dataset = build(folder)
    assert dataset.train.num_examples == 5
    assert dataset.class_names == ("a", "b")
    assert dataset.unreadable == ()


def test_files_that_are_no_images_are_counted(folder):
    for name in ("Train/a/1.dcm", "Train/b/2.DCM", "Test/a/notes", "Train/a/.hidden"):
        (folder / name).write_text("no image")
    (folder / "Train/a/deeper").mkdir()
    found = findings.find(build(folder))
    assert found.ignored == ((".dcm", 2), ("folder", 1), ("no suffix", 1))
    assert "    4  ignored: no images" in report.table(found)


def test_images_at_another_depth_are_counted(folder):
    for name in ("Train/1.png", "1.png", "Train/a/patient/1.png", "Train/a/patient/left/2.png"):
        write_image(folder / name)
    below, beside = "images in folders below a class", "images beside the class folders"
    assert dict(scan(str(folder)).ignored) == {below: 2, beside: 2}


def test_images_in_folders_below_a_class_are_of_it_if_they_are_asked_for(folder):
    for name in ("Train/a/patient/91.png", "Train/a/patient/left/92.png", "Test/b/patient/93.png"):
        write_image(folder / name)
    (folder / "Train/a/patient/92.txt").write_text("no image")
    (folder / "Train/a/.hidden").mkdir()
    (folder / "Train/a/patient/there").symlink_to(folder / "Train/b")
    plain, nested = scan(str(folder)), scan(str(folder), nested=True)
    more = {(file.split, file.name, file.label) for file in {*nested.files} - {*plain.files}}
    assert more == {("train", "a/91.png", 0), ("train", "a/92.png", 0), ("test", "b/93.png", 1)}
    assert dict(nested.ignored) == {".txt": 1, "folder": 1}
    (folder / "Train/a/left").mkdir()
    (folder / "Train/a/left/91.png").write_bytes((folder / "Train/a/patient/91.png").read_bytes())
    names = {file.name for file in scan(str(folder), nested=True).files}
    assert {"a/patient_91.png", "a/left_91.png", "a/92.png"} <= names
    write_image(folder / "Train/c/patient/1.png")
    with pytest.raises(UserError, match=r"'c' has no train images .*options.nested=True"):
        scan(str(folder))
    assert scan(str(folder), nested=True).class_names == ("a", "b", "c")
    (folder / "Train/a/left_91.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 images would be called a/left_91.png: rename one"):
        scan(str(folder), nested=True)


def test_folders_beside_train_and_test_that_hold_images_are_named(folder):
    write_image(folder / "Val" / "a" / "1.png")
    write_image(folder / "Val" / "a" / "2.png")
    (folder / "notes").mkdir()
    assert scan(str(folder)).ignored == (("Val/", 2),)


def test_files_that_were_swapped_are_noticed(folder):
    names = [folder / "Train/a/8.png", folder / "Train/b/1.png"]
    contents = [name.read_bytes() for name in names]
    size = max(map(len, contents))
    for name, content in zip(names, contents, strict=True):
        name.write_bytes(content.ljust(size, b"\0"))
        os.utime(name, (1, 1))  # as an archive or rsync leaves them
    before = build(folder).train
    names[0].rename(folder / "aside")
    names[1].rename(names[0])
    (folder / "aside").rename(names[1])
    after = build(folder).train
    assert after.sha256[[0, 2]].tolist() == before.sha256[[2, 0]].tolist()


@pytest.mark.parametrize("inside", ["Train", "Test"])
def test_a_folder_too_deep_names_the_one_above(folder, inside):
    with pytest.raises(UserError, match=rf"Did you mean --data_dir={folder}\?"):
        scan(str(folder / inside))


def test_class_folder_that_is_not_utf_8_is_readable_and_printable(folder):
    for split in ("Train", "Test"):
        (folder / split / "b").rename(folder / split / os.fsdecode(b"caf\xe9"))
    dataset = build(folder)
    assert dataset.class_names == ("a", "caf\\xe9")
    assert "\\xe9/1.png" in dataset.train.name[2].encode().decode()
    assert dataset.test.label.tolist() == [0, 1]


def test_a_class_of_unreadable_images_alone_says_why(folder):
    for path in (folder / "Train/b").iterdir():
        write_image(path, side=4)
    dataset = build(folder)
    with pytest.raises(
        UserError, match=r"no train image in class 'b' \(3 unreadable: 4 x 4 pixels"
    ):
        findings.clean(dataset, findings.find(dataset), "rarest")


def test_unreadable_files_are_reported_with_their_reason(folder):
    whole = (folder / "Train/b/1.png").read_bytes()
    (folder / "Train/b/4.png").write_bytes(whole[: len(whole) // 2])
    write_image(folder / "Test/a/2.png", side=2)
    (folder / "Test/a/3.png").symlink_to(folder / "nowhere.png")
    dataset = build(folder)
    assert dataset.train.num_examples == 5
    assert dataset.test.num_examples == 2
    assert [file[:2] for file in dataset.unreadable] == [
        ("train", "b/4.png"),
        ("test", "a/2.png"),
        ("test", "a/3.png"),
    ]
    assert "truncated" in dataset.unreadable[0].reason
    assert "2 x 2 pixels" in dataset.unreadable[1].reason
    assert "No such file" in dataset.unreadable[2].reason


READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
from fedjax_med.data.datasets import image_folder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = image_folder.build(sys.argv[1], sys.argv[2], 16)
print(found.train.num_examples, found.ignored)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
for file in found.unreadable:
    print(f"{file.name}: {file.reason}")
"""


def test_what_is_no_image_file_is_told_and_never_waited_for_nor_read(folder):
    """Each kind once in each class: if one of them blocks, the process is ended."""
    for kind in hostile.KINDS:
        hostile.make(folder / f"Train/a/{kind}.jpg", kind)
        hostile.make(folder / f"Train/b/{kind}.tiff", kind)
    (folder / "Train/a/system.png").symlink_to("/proc/self/maps")  # says that it is empty
    (folder / "Train/a/large.png").touch()
    os.truncate(folder / "Train/a/large.png", decode.LIMIT + 1)
    (folder / "everything").symlink_to("/")
    command = [sys.executable, "-c", READ, str(folder), str(folder.parent / "cache")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    counts, memory, *lines = done.stdout.splitlines()
    assert counts == "5 (('folder', 2),)"
    assert int(memory) < 300  # MB
    told = dict(line.split(": ", 1) for line in lines)
    for kind, reason in hostile.KINDS.items():
        for name in (f"a/{kind}.jpg", f"b/{kind}.tiff"):
            assert (name in told) == (kind != "folder")  # which is ignored
            assert re.search(reason, told.get(name, "a folder"))
    assert told["a/system.png"] == "not an image of a known format"
    assert told["a/large.png"] == "268.4 MB, expected at most 268.4 MB"
    assert len(told) == 2 * (len(hostile.KINDS) - 1) + 2


def test_a_file_without_permission_is_told(folder, monkeypatch):
    def refuse(path, limit):
        if path.name == "9.png":
            raise PermissionError(13, "Permission denied")
        return path.read_bytes()

    monkeypatch.setattr(load, "read_regular", refuse)
    assert [file[1:] for file in build(folder).unreadable] == [("a/9.png", "Permission denied")]


def test_client_folders_are_read_with_their_number(tmp_path):
    root = tmp_path / "data"
    for seed, name in enumerate(
        ["client_2/a/1.png", "client_0/b/1.png", "client_1/a/1.png", "test/b/7.png"]
    ):
        write_image(root / name, seed)
    dataset = build(root)
    assert dataset.class_names == ("a", "b")
    assert dataset.train.client.tolist() == [0, 1, 2]
    assert dataset.train.name.tolist() == ["b/1.png", "a/1.png", "a/1.png"]
    assert dataset.train.label.tolist() == [1, 0, 0]
    assert dataset.test.client.tolist() == [-1]


def test_the_images_are_prepared_once(folder, capsys):
    first = build(folder)
    assert "Preparing 7 images" in capsys.readouterr().err
    second = build(folder)
    assert capsys.readouterr() == ("", "")
    for one, other in zip(first.train, second.train, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("change", ["added", "removed", "rewritten"])
def test_a_changed_source_is_noticed_and_the_old_preparation_removed(folder, capsys, change):
    build(folder)
    before = prepared(folder)
    path = folder / "Train/b/2.png"
    if change == "added":
        write_image(folder / "Train/b/new.png", 99)
    elif change == "removed":
        path.unlink()
    else:
        write_image(path, 99)
        os.utime(path, ns=(1, 1))
    capsys.readouterr()
    dataset = build(folder)
    assert "have changed" in capsys.readouterr().err
    assert dataset.train.num_examples == {"added": 6, "removed": 4, "rewritten": 5}[change]
    if change == "rewritten":
        expected = decode.resize(decode.decode(path.read_bytes()), 16)
        np.testing.assert_array_equal(dataset.train.image[3], expected)
    assert len(prepared(folder)) == 1
    assert prepared(folder).isdisjoint(before)


def test_what_another_run_reads_from_disk_is_not_removed(folder, capsys):
    cache = folder.parent / "cache"
    used = image_folder.build(str(folder), str(cache), 16, "disk")
    (old,) = prepared(folder)
    (folder / "Train/b/2.png").unlink()
    assert build(folder).train.num_examples == 4
    assert "since another run may read it: remove that folder" in capsys.readouterr().err
    assert old in prepared(folder)
    assert np.asarray(used.train.image).shape == (5, 16, 16, 3)
    del used
    (folder / "Train/b/1.png").unlink()
    assert build(folder).train.num_examples == 3
    assert len(prepared(folder)) == 1


def test_every_image_size_has_its_own_preparation(folder, capsys):
    build(folder, 16)
    assert build(folder, 24).train.image.shape == (5, 24, 24, 3)
    assert "changed" not in capsys.readouterr().err
    assert len(prepared(folder)) == 2
    build(folder, 16)
    assert capsys.readouterr().err == ""


def test_an_interrupted_preparation_is_not_taken_for_complete(folder, monkeypatch):
    stopped = load.ClassFolders._record

    def interrupt(self, file):
        if file.name == "b/2.png":
            raise KeyboardInterrupt
        return stopped(self, file)

    monkeypatch.setattr(load.ClassFolders, "_record", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(folder)
    assert prepared(folder) == set()
    monkeypatch.undo()
    assert build(folder).train.num_examples == 5


KILLED = """
import os, signal, sys
from fedjax_med.data.images import load as records
from fedjax_med.data.datasets import image_folder
write = records.ClassFolders._record
def kill(self, file):
    if file.split == "train" and file.name == "b/2.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, file)
records.ClassFolders._record = kill
image_folder.build(sys.argv[1], sys.argv[2], 16)
"""


def test_a_killed_preparation_is_done_again_and_its_remains_removed(folder):
    cache = folder.parent / "cache"
    command = [sys.executable, "-c", KILLED, str(folder), str(cache)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert list(cache.rglob("*incomplete*"))
    assert prepared(folder) == set()
    assert build(folder).train.num_examples == 5
    assert not list(cache.rglob("*incomplete*"))


def test_a_run_that_was_overtaken_uses_what_the_other_prepared(folder, monkeypatch):
    write = load.ClassFolders._record
    overtaken = threading.Event()

    def overtake(self, file):
        if not overtaken.is_set():
            overtaken.set()
            build(folder)
        return write(self, file)

    monkeypatch.setattr(load.ClassFolders, "_record", overtake)
    assert build(folder).train.num_examples == 5
    assert overtaken.is_set()


def test_a_damaged_preparation_is_made_anew_and_said_so(folder, capsys):
    build(folder)
    for path in (folder.parent / "cache").rglob("*train.array_record*"):
        path.write_bytes(path.read_bytes()[:100])
    assert build(folder).train.num_examples == 5
    assert "preparing them anew" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("Stale file handle"), MemoryError()])
def test_what_may_pass_removes_no_preparation(folder, monkeypatch, error):
    build(folder)
    before = prepared(folder)

    def fail(*arguments):
        raise error

    monkeypatch.setattr("fedjax_med.data.images.array_record._read", fail)
    with pytest.raises((UserError, MemoryError)) as told:
        build(folder)
    if isinstance(error, OSError):
        assert "try again, and if it stays so remove that folder (Stale" in str(told.value)
    assert prepared(folder) == before != set()


def mistake(root: Path, match: str, cache: str | None = None) -> None:
    with pytest.raises(UserError, match=match) as error:
        image_folder.build(str(root), cache or str(root.parent / "cache"), 16)
    assert "\n" not in str(error.value)


def test_a_missing_data_dir_is_asked_for():
    with pytest.raises(UserError, match="--data_dir=FOLDER"):
        image_folder.build("", "cache", 16)


def test_mistakes_in_the_folder_are_told_in_one_line(folder):
    mistake(folder / "nowhere", "there is no such folder")
    mistake(folder / "Train", r"has no train folder: expected train/<class>/<image>.*found a, b")
    (folder / "Test/c").mkdir()
    mistake(folder, "test class 'c' is not among the train classes")
    (folder / "Train/c").mkdir()
    mistake(folder, "class 'c' has no train images")
    (folder / "train").mkdir()
    mistake(folder, "has both Train and train")
    shutil.rmtree(folder / "train")
    (folder / "client_0").mkdir()
    mistake(folder, "has both Train and client_0")
    shutil.rmtree(folder)
    folder.mkdir()
    mistake(folder, "found no folder")
    (folder / "train").mkdir()
    mistake(folder, "has no class folders")


def test_a_test_class_may_be_empty(folder):
    (folder / "Test/a/1.png").unlink()
    assert build(folder).test.label.tolist() == [1]


def test_an_image_size_of_nothing_is_refused(folder):
    with pytest.raises(UserError, match="image_size"):
        build(folder, 0)


def test_a_cache_that_cannot_be_written_is_told_in_one_line(folder):
    file = folder.parent / "file"
    file.write_text("in the way")
    mistake(folder, "--cache_dir=.*cannot be written", str(file / "cache"))


def test_a_full_disk_is_told_in_one_line(folder, monkeypatch):
    usage = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    mistake(folder, "MB free")


FILLED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # writing on fails, as on a full disk
from fedjax_med.data.datasets import image_folder
from fedjax_med.errors import UserError
try:
    image_folder.build(sys.argv[1], sys.argv[2], 64)
except UserError as error:
    print(error)
"""


def test_a_disk_that_fills_up_while_writing_leaves_nothing_that_counts(folder):
    cache = folder.parent / "cache"
    command = [sys.executable, "-B", "-c", FILLED, str(folder), str(cache)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "cannot be written" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert prepared(folder) == set()


def test_a_set_packed_in_one_more_folder_is_found(folder):
    outer = folder.parent / "outer"
    outer.mkdir()
    folder.rename(outer / "Skin cancer")
    assert scan(str(outer)).root == outer / "Skin cancer"
    shutil.copytree(outer / "Skin cancer", outer / "another")
    with pytest.raises(UserError, match="found Skin cancer, another"):
        scan(str(outer))


def test_isic9_says_how_to_get_the_images():
    for data_dir in ("", "/nowhere"):
        with pytest.raises(UserError, match=r"fetch_isic9\.py") as error:
            isic9.build(data_dir, "cache", 16)
        assert '".[kaggle]"' in str(error.value)
        assert "\n" not in str(error.value)


def test_isic9_refuses_other_classes(tmp_path):
    for name in isic9.CLASS_NAMES[1:]:
        write_image(tmp_path / "data/Train" / name / "1.png")
    with pytest.raises(UserError, match="lacks the class 'actinic keratosis'"):
        isic9.build(str(tmp_path / "data"), str(tmp_path / "cache"), 16)
    write_image(tmp_path / "data/Train/actinic keratosis/1.png")
    write_image(tmp_path / "data/Train/wart/1.png")
    with pytest.raises(UserError, match="has the further class 'wart'"):
        isic9.build(str(tmp_path / "data"), str(tmp_path / "cache"), 16)


def test_isic9_reads_the_nested_folder_that_kaggle_packs(tmp_path):
    for seed, name in enumerate(isic9.CLASS_NAMES):
        write_image(tmp_path / "data/Skin cancer ISIC/Train" / name / "1.png", seed)
    dataset = isic9.build(str(tmp_path / "data"), str(tmp_path / "cache"), 16)
    assert dataset.name == "isic9"
    assert dataset.class_names == isic9.CLASS_NAMES
    assert dataset.train.label.tolist() == list(range(9))


def write_levels(path: Path, levels: list[float], kind: type = np.uint16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.tile(np.array(levels, kind), (16, 8))).save(path)


def test_all_hospitals_share_one_scale_of_grey_levels_and_the_audit_tells_it(tmp_path):
    """12-bit X-rays in 16 bits: not one of them is stretched by itself, and none is black."""
    root = tmp_path / "data"
    write_levels(root / "client_0/a/1.png", [0, 100])
    write_levels(root / "client_1/a/1.tif", [0, 2047])
    write_levels(root / "test/a/1.png", [0, 4000])
    write_image(root / "client_1/a/8 bits.png")
    dataset = build(root)
    assert [int(one[0, 1, 0]) for one in dataset.train.image[:2]] == [6, 127]
    assert dataset.test.image[0, 0, 1, 0] == 249
    (line,) = [line for line in report.table(findings.find(dataset)).splitlines() if "4095" in line]
    text = "0 to 4095 (black to white), the power of two that the whole set agrees on"
    assert line == f"        3  {text}"
    assert report.to_json(findings.find(dataset))["levels"] == {text: 3}
    assert build(root).levels == dataset.levels  # from the cache


def test_signed_levels_need_a_range_for_the_whole_set(tmp_path):
    root = tmp_path / "data"
    write_levels(root / "train/a/1.tif", [-1000, 1000], np.int32)
    write_levels(root / "train/a/2.tif", [0.0, 0.5], np.float32)
    mistake(root, r"'a/1.tif' in train and 1 more: signed or floating-point .*range=BLACK,WHITE")
    assert not prepared(root)
    places = str(root), str(tmp_path / "cache"), 16
    dataset = image_folder.build(*places, range=(-1000, 1000))
    assert dataset.train.image[:, 0, :2, 0].tolist() == [[0, 255], [128, 128]]
    for wrong in ((1,), (1, 0), (0, float("nan")), ("a", "b"), (0, 1, 2)):
        with pytest.raises(UserError, match=r"expected .*range=BLACK,WHITE, as in 0,4095, got"):
            image_folder.build(*places, range=wrong)


def test_every_crop_and_range_is_prepared_for_itself(folder, capsys):
    places = str(folder), str(folder.parent / "cache"), 16
    ways = [{}, {"crop": "pad"}, {"crop": "stretch"}, {"range": (0, 1)}]
    for way in ways + ways:
        image_folder.build(*places, **way)
    assert capsys.readouterr().err.count("Preparing") == 4
    with pytest.raises(UserError, match=r"no 'middle' in the values of --config.crop"):
        image_folder.build(*places, crop="middle")


def hospitals(root: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        write_image(root / name, seed)
    return root


def test_hospitals_have_folders_of_any_name(tmp_path):
    names = [
        "Turin/a/1.png",
        "Graz/b/1.png",
        "St. P\u00f6lten/a/1.png",
        "Graz/a/1.png",
        "Test/a/1.png",
    ]
    dataset = build(hospitals(tmp_path / "data", *names))
    assert dataset.clients == dataset.client_names() == ("Graz", "St. P\u00f6lten", "Turin")
    assert dataset.train.client.tolist() == [0, 0, 1, 2]
    assert dataset.test.num_examples == 1
    (tmp_path / "data/Turin/a/2.png").write_bytes((tmp_path / "data/Graz/b/1.png").read_bytes())
    (same,) = findings.find(build(tmp_path / "data")).train_contradictions
    assert same.train == ("Graz/b/1.png", "Turin/a/2.png")


def test_a_client_folder_keeps_its_name_where_it_is_not_its_number(tmp_path):
    dataset = build(hospitals(tmp_path / "data", "client_3/a/1.png"))
    assert dataset.client_names() == ("client_3",)
    dataset = build(hospitals(tmp_path / "data", "client_10/a/1.png"))
    assert dataset.client_names() == ("client_3", "client_10")
    hospitals(tmp_path / "other", *(f"client_{number}/a/1.png" for number in range(2)))
    assert build(tmp_path / "other").client_names() == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Training/a/1.png", "Testing/a/1.png"], "has no train folder.*found Testing, Training"),
        (["Graz/a/1.png", "val_set/a/1.png"], "has no train folder"),
        (["a/1.png", "b/1.png", "b/more/1.png"], "has no train folder"),
        (["nevus/patient 1/1.png", "melanoma/patient 2/1.png"], "have no class in common"),
        (["Graz/a/1.png", "notes/1/2/3.png"], "but 'notes' holds no such images"),
    ],
)
def test_what_is_no_hospital_is_not_taken_for_one(tmp_path, names, message):
    mistake(hospitals(tmp_path / "data", *names), message)


def test_a_folder_of_hospitals_is_found_one_folder_down(tmp_path):
    names = ["Berlin/a/1.png", "Rom/a/1.png", "Rom/b/1.png", "test/a/1.png"]
    root = hospitals(tmp_path, *(f"wrap/{name}" for name in names))
    (root / "wrap" / "notes").mkdir()
    with pytest.raises(UserError, match="'notes' holds no such images"):
        scan(str(root))
    (root / "wrap" / "notes").rmdir()
    source = scan(str(root))
    assert source.clients == ("Berlin", "Rom")
    assert source == scan(str(root / "wrap"))


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["2023/Rom/a/1.png", "2023/Bern/a/1.png", "2024/Rom/a/1.png"], ["2023", "2024"]),
        (["Rom/train/a/1.png", "Bern/train/a/1.png"], ["Bern", "Rom"]),
        (["wrap/nevus/patient/1.png"], ["wrap"]),  # a hospital, or a class
        (["Training/Rom/a/1.png", "Training/Bern/a/1.png"], []),
    ],
)
def test_of_what_may_be_a_set_one_folder_down_the_user_chooses(tmp_path, names, meant):
    folders = " or ".join(f"--data_dir={tmp_path / name}" for name in meant)
    hint = re.escape(f" Did you mean {folders}?") if meant else r"\."
    with pytest.raises(UserError, match=f"has no train folder.*, found [A-Za-z0-9, ]*\\.?{hint}$"):
        scan(str(hospitals(tmp_path, *names)))


def test_beside_a_table_the_data_set_of_tables_is_named(tmp_path):
    (tmp_path / "metadata.csv").write_text("image,label\n")
    with pytest.raises(UserError, match=r"no train folder.*--config\.dataset\.name=table"):
        scan(str(hospitals(tmp_path, "part_1/1.png")))


def test_hospitals_without_a_common_class_are_told_what_to_give(tmp_path):
    hospitals(tmp_path, "Rom/a/1.png", "Bern/b/1.png")
    with pytest.raises(UserError, match=r"in common: if they are hospitals, call them client_0"):
        scan(str(tmp_path))
    for number, name in enumerate(("Rom", "Bern")):
        (tmp_path / name).rename(tmp_path / f"client_{number}")
    assert scan(str(tmp_path)).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("client_1", "client_03"),
            "'client_1' and 'client_03', which is also a folder of classes",
        ),
        (("client_0", "client_1", "hospital"), "'client_0' and 'hospital', which is also"),
        (("Berlin", "berlin", "Bern"), "'Berlin' and 'berlin' differ only in their spelling"),
    ],
)
def test_hospitals_that_would_be_left_aside_or_told_apart_by_spelling_are_refused(
    tmp_path, folders, message
):
    for folder in folders:
        (tmp_path / folder / "a").mkdir(parents=True)
        (tmp_path / folder / "a" / "1.png").touch()
    with pytest.raises(UserError, match=message):
        scan(str(tmp_path))


def test_name_of_the_folder_is_printed_escaped(tmp_path, folder, capsys):
    root = folder.rename(tmp_path / "a\x1b[2Jb")
    build(root)
    said = capsys.readouterr().err
    assert "Preparing" in said
    assert "\x1b" not in said
